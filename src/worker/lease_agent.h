#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "checkpoint/checkpointer.h"
#include "common/step_record.h"
#include "worker/coordinator_client.h"
#include "worker/progress.h"

namespace moe {

/// The leader's tie to the coordinator while it runs a job: a thread that sends heartbeats and metrics, hears what is
/// asked for, and notices when the job is no longer ours.
///
///   heartbeat answered    -> go on; RELEASE: should_stop() turns true, so the job saves and leaves
///   coordinator away      -> go on without committing; after `orphan_limit` should_stop() turns true (exit 75)
///   ABORTED (fenced)      -> the process ends at once with 76: nothing more may be written
class LeaseAgent {
 public:
  LeaseAgent(CoordinatorClient& client, const v1::Lease& lease, std::chrono::milliseconds orphan_limit);
  ~LeaseAgent();
  LeaseAgent(const LeaseAgent&) = delete;
  LeaseAgent& operator=(const LeaseAgent&) = delete;

  // Called by the job's thread.
  void set_progress(const ProgressUpdate& update);
  void add_step(const StepRecord& record);
  /// Makes a checkpoint the one to resume from. False: the coordinator is away; it is committed as soon as it is back.
  /// Throws Fenced.
  bool commit(const SavedCheckpoint& checkpoint);
  bool should_stop() const { return release_ || orphaned_; }
  bool is_release_asked() const { return release_; }
  bool is_orphaned() const { return orphaned_; }

  /// Reports the end of the attempt; repeats until it is known, or the orphan limit is over (Unavailable). Sends what
  /// metrics are left first. Throws Fenced.
  void complete(v1::CompleteAttemptRequest request);

  /// The lease is about to end: no more heartbeats, and being fenced is no news. For a thread that ends the process.
  void expect_end();
  /// Like complete, from a thread that is about to end the process: one try, no exception.
  void complete_once(v1::CompleteAttemptRequest request) noexcept;

 private:
  void run();
  void send_progress();
  void beat();
  void send_metrics();
  void send_pending_commit();

  CoordinatorClient& client_;
  const v1::Lease lease_;
  const std::chrono::milliseconds orphan_limit_;
  std::atomic<bool> release_{false};
  std::atomic<bool> orphaned_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool closing_ = false;
  v1::Progress progress_;
  v1::ReportMetricsRequest metrics_;  ///< not sent yet
  std::optional<v1::Checkpoint> pending_commit_;
  std::chrono::steady_clock::time_point last_answer_;
  std::thread thread_;
};

}  // namespace moe
