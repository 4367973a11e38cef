#pragma once

#include <absl/status/statusor.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "coordinator/gang_health.h"
#include "coordinator/job_machine.h"
#include "coordinator/scheduler.h"
#include "coordinator/store.h"
#include "moe/v1/job_service.pb.h"
#include "moe/v1/worker_service.pb.h"
#include "pipeline/advance.h"
#include "pipeline/spec.h"

namespace moe {

struct CoordinatorOptions {
  std::filesystem::path data_root;
  std::string root_id{};  ///< what a gang must find in its own --data-root
  std::string http_url;
  std::chrono::milliseconds lease{15'000};
  std::chrono::milliseconds heartbeat{3'000};
  /// Wait before a second failed attempt in a row is followed by another; doubles up to 20 times as much.
  std::chrono::milliseconds retry_backoff{30'000};
  int max_failures = 5;  ///< attempts that may fail without a newly committed step
  /// A gang that failed two different jobs, which others can run, gets none for this long.
  std::chrono::milliseconds quarantine{1'800'000};
  /// A job whose inputs neither the only gang that is there nor the coordinator sees waits so long for another gang.
  std::chrono::milliseconds input_grace{120'000};
};

/// What happened, for metrics. Called under the coordinator's lock: be quick, do not call back.
struct CoordinatorObserver {
  std::function<void(const std::string& reason)> lease_expired = [](const std::string&) {};
  std::function<void()> fenced = [] {};
  std::function<void(const std::string& job_id, const std::string& reason)> restarted = [](const std::string&,
                                                                                           const std::string&) {};
  std::function<void(const std::string& kind, const std::string& outcome)> finished = [](const std::string&,
                                                                                         const std::string&) {};
  std::function<void()> changed = [] {};  ///< something a long poll may wait for
};

/// Tokens of each expert by layer, as a gang told them last.
struct ReportedLoad {
  google::protobuf::RepeatedPtrField<v1::LayerLoad> experts;
  google::protobuf::RepeatedPtrField<v1::LayerLoad> attention_experts;
};

/// Pipelines, jobs, leases, gangs and artifacts: the coordinator without sockets. Keeps everything in memory and hands
/// every change to the store; an answer may be sent once Store::after_commit says so. A pipeline is driven by the
/// engine of src/pipeline, a job by job_machine.h, and the choice of a job for a gang is scheduler.h's. Thread-safe:
/// one lock.
///
/// Every call returns what its RPC answers; the status codes are those of the service comments.
class Coordinator {
 public:
  template <typename T>
  using Result = absl::StatusOr<T>;

  Coordinator(CoordinatorOptions options, const Clock& clock, Store& store, CoordinatorObserver observer = {});

  // Users (submit.cc, controls.cc, queries.cc).
  Result<v1::SubmitResponse> submit(const v1::SubmitRequest& request);
  Result<v1::ListPipelinesResponse> list_pipelines(const v1::ListRequest& request);
  Result<v1::Pipeline> get_pipeline(const v1::GetRequest& request);
  Result<v1::ListJobsResponse> list_jobs(const v1::ListRequest& request);
  Result<v1::Job> get_job(const v1::GetRequest& request);
  Result<v1::ListGangsResponse> list_gangs(const v1::ListRequest& request);
  Result<v1::ListArtifactsResponse> list_artifacts(const v1::ListRequest& request);
  /// Answers at once; the service waits and asks again.
  Result<v1::WatchResponse> watch(const v1::WatchRequest& request);
  Result<v1::ReadLogsResponse> read_logs(const v1::ReadLogsRequest& request);
  Result<v1::QueryMetricsResponse> query_metrics(const v1::QueryMetricsRequest& request);
  Result<v1::ControlResponse> cancel(const v1::ControlRequest& request);
  Result<v1::ControlResponse> pause(const v1::ControlRequest& request);
  Result<v1::ControlResponse> resume(const v1::ControlRequest& request);
  Result<v1::ControlResponse> retry(const v1::ControlRequest& request);
  Result<v1::ControlResponse> readmit_gang(const v1::ControlRequest& request);
  Result<v1::ControlResponse> decide_gate(const v1::DecideGateRequest& request);
  v1::ServerInfo server_info();

  // Gangs (leases.cc, attempts.cc).
  Result<v1::RegisterGangResponse> register_gang(const v1::RegisterGangRequest& request);
  /// Answers at once, without a lease if there is nothing to do; the service waits and asks again.
  Result<v1::AcquireLeaseResponse> acquire_lease(const v1::AcquireLeaseRequest& request);
  Result<v1::HeartbeatResponse> heartbeat(const v1::HeartbeatRequest& request);
  Result<v1::ReportMetricsResponse> report_metrics(const v1::ReportMetricsRequest& request);
  Result<v1::CommitCheckpointResponse> commit_checkpoint(const v1::CommitCheckpointRequest& request);
  Result<v1::CompleteAttemptResponse> complete_attempt(const v1::CompleteAttemptRequest& request);
  Result<v1::DeregisterGangResponse> deregister_gang(const v1::DeregisterGangRequest& request);

  /// Expires leases and forgets gangs that were not heard of for long. Call it several times per lease; if it was not,
  /// this process stood still, which makes no gang silent and gives every lease a new full term.
  void tick();

  /// Grows with every change: long polls look again when it did.
  uint64_t version() const;

  /// Pipelines whose summary is to be written again, since the last call; waits so long for one.
  std::set<std::string> take_changed_pipelines(std::chrono::milliseconds wait);

  /// For the status page and metrics: copies. What lives is counted whole and listed first, so that nothing shown of it
  /// depends on how much has ended. A pipeline lives until it has ended and no job of it waits for a gang, has one or
  /// is paused; a job lives until its state is final or its pipeline does not live.
  struct View {
    std::map<std::string, int64_t> living_pipelines;  ///< by phase
    std::map<std::string, int64_t> living_jobs;       ///< by state; every state that is not final is there
    std::optional<int64_t>
        oldest_queued;  ///< since when the job has waited that waits longest: microseconds since the epoch
    size_t ended_pipelines = 0;
    std::vector<v1::Pipeline> pipelines;
    std::vector<v1::Job> jobs;
    std::vector<v1::Gang> gangs;
    std::map<std::string, std::vector<std::pair<int64_t, double>>> loss;
  };
  /// At most `max_pipelines`: living ones (those that a gang works on, then those that a gate holds, then the others,
  /// each newest first), then those that ended last; with their jobs, and with every other job that a gang works on.
  View view(size_t max_pipelines);
  /// For metrics, light: at most `max_jobs` jobs without attempts and stage: living ones (at work, queued, paused,
  /// blocked), then those that ended at `ended_since` (microseconds since the epoch) or later, the newest first; and
  /// their pipelines and all living ones without spec.
  View work(size_t max_jobs, int64_t ended_since);

 private:
  struct PipelineEntry {
    v1::Pipeline record;
    PipelineState engine;
    std::optional<int64_t> ended;            ///< its place in ended_, when it has one
    std::vector<v1::JobState> summarized{};  ///< as the files for people show its jobs
  };
  struct LeaseEntry {
    std::string gang_id;
    std::chrono::steady_clock::time_point expiry;
  };
  struct GangEntry {
    v1::Gang record;
    std::chrono::steady_clock::time_point heard;
  };

  /// One operation: collects what it changes, hands it to the store on commit(). Made under the lock.
  class Operation;

  // shared.cc
  int64_t now_micros() const;
  void touch(google::protobuf::Timestamp* stamp) const;
  /// Full id of a pipeline or job from an unambiguous prefix.
  Result<std::string> resolve(const std::string& prefix) const;
  Result<std::string> resolve_job(const std::string& prefix) const;
  Result<std::string> resolve_pipeline(const std::string& prefix) const;
  Result<std::string> resolve_gang(const std::string& prefix) const;
  /// Full id of the pipeline that a list is restricted to; empty: of all.
  Result<std::string> wanted_pipeline(const v1::ListRequest& request) const;
  v1::Job full_job(const v1::Job& job) const;
  v1::Pipeline full_pipeline(const PipelineEntry& entry) const;
  /// The states of a pipeline's jobs, in the order of its stages.
  std::vector<v1::JobState> job_states(const PipelineEntry& entry) const;
  /// The phase that people see.
  const char* phase_of(const PipelineEntry& entry) const;
  /// Writes it and the rest of the engine's state.
  void put_state(const PipelineEntry& entry, v1::Pipeline& pipeline) const;
  /// Puts the pipeline under living_ or ended_, after a change of it or of one of its jobs.
  void sort_in(PipelineEntry& entry);
  std::vector<const PipelineEntry*> living_in_order() const;
  /// The part of a view that is the same in all: counts and gangs.
  View counted() const;
  /// Of the gangs that are there: heard of within silence_until_lost().
  std::vector<GangShape> gang_shapes() const;
  std::chrono::milliseconds silence_until_unheard() const;
  std::chrono::milliseconds silence_until_lost() const;
  /// The launcher of a gang, by which it is known after a restart; its own id if it has none or is gone.
  std::string launcher_of(const std::string& gang_id) const;
  GangShape shape_of(const std::string& gang_id, const GangEntry& gang, bool is_idle) const;
  /// As users see it.
  v1::Gang shown_gang(const GangEntry& gang, const std::string& job_id) const;
  std::string pending_explanation(const v1::Job& job) const;
  /// Names that the connected gangs know.
  KnownNames known_names() const;

  // controls.cc
  /// Jobs that keep away from this launcher's gangs do so no more; whether there was one.
  bool let_jobs_back(Operation& operation, const std::string& launcher);

  // leases.cc
  /// First thing under the lock of every call that asks how long gangs were silent: whichever comes first after a
  /// stall.
  void notice_stall();
  /// Why a gang may not register beside those that are there; OK: it may.
  absl::Status refuse_registration(const v1::RegisterGangRequest& request) const;

  // transitions.cc
  /// Applies an event of the job machine; FAILED_PRECONDITION if it is not allowed.
  absl::Status apply(Operation& operation, v1::Job& job, JobEvent event, const std::string& reason,
                     const std::string& message);
  /// Feeds the pipeline engine and carries its actions out.
  absl::Status feed(Operation& operation, PipelineEntry& pipeline, const Event& event);
  /// Feeds that the stage of a FAILED or CANCELED job will give nothing.
  void fail_stage(Operation& operation, const v1::Job& job, const std::string& reason);
  /// Who is suspected of a failed attempt.
  enum class Suspect {
    kJob,
    kGang,         ///< a reason of its own
    kGangForSure,  ///< the coordinator sees what it does not see
    kSilentGang,
    kRoom,    ///< the data root is full
    kNobody,  ///< the gang was told to end
  };
  struct AttemptEnd {
    v1::AttemptOutcome outcome;
    int exit_code = 0;
    std::string message;
    Suspect suspect = Suspect::kJob;
    bool may_appear = false;  ///< inputs that another gang may see: the coordinator cannot tell that they are missing
  };
  void end_attempt(Operation& operation, v1::Job& job, const AttemptEnd& end);
  /// Decides who is charged with a failure, and when and where the job is tried again.
  v1::AttemptFault charge(Operation& operation, v1::Job& job, const AttemptEnd& end);
  /// Whether another launcher's gang than the last attempt's could not read the inputs either.
  bool was_refused_by_another(const v1::Job& job) const;
  /// Whether the inputs that a gang could not read were read by another, or are not yet refused by a gang that is
  /// there, be it in quarantine or silent for a moment.
  bool may_be_readable(const v1::Job& job) const;
  void lose_lease(Operation& operation, v1::Job& job, const std::string& reason, const std::string& message,
                  Suspect suspect);
  /// The gang brought the job to `step`: it is sound, and those that failed it before are not.
  void note_work(Operation& operation, const v1::Job& job, int64_t step);
  void announce_quarantines(Operation& operation, const std::vector<std::string>& launchers);

  /// The job if (attempt, gang) is the current holder; ABORTED otherwise. A job whose lease expired and that nobody
  /// took since is taken up again, which is committed at once.
  Result<v1::Job*> fenced_job(Operation& operation, const std::string& gang_id, const std::string& job_id, int attempt);
  bool may_take_up(const v1::Job& job) const;
  void add_artifact(Operation& operation, const v1::Job& job);
  v1::Lease lease_of(const v1::Job& job) const;

  /// Keeps the answer for repeated calls and forgets those of a day ago.
  void remember(Operation& operation, StoredRequest request);

  template <typename Request, typename Response>
  Result<Response> once(const char* method, const Request& request,
                        const std::function<Result<Response>(Operation&)>& work);

  const CoordinatorOptions options_;
  const Clock& clock_;
  Store& store_;
  const CoordinatorObserver observer_;
  v1::ServerInfo info_;

  mutable std::mutex mutex_;
  std::condition_variable pipelines_changed_;
  uint64_t version_ = 1;
  int64_t revision_ = 0;
  std::map<std::string, PipelineEntry> pipelines_;
  std::set<std::string> living_;                     ///< pipelines, see View
  std::set<std::pair<int64_t, std::string>> ended_;  ///< the others, by when the last job or the pipeline ended
  std::map<std::string, v1::Job> jobs_;
  std::set<QueuedJob> queue_;
  std::map<std::string, LeaseEntry> leases_;  ///< by job
  std::map<std::string, GangEntry> gangs_;
  GangHealth health_;
  std::deque<std::pair<std::string, std::string>>
      replaced_gangs_;  ///< (id, successor) of the same launcher, the newest
  std::map<std::string, v1::Artifact> artifacts_;
  std::deque<v1::Event> events_;
  std::map<std::string, StoredRequest> requests_;
  std::deque<std::pair<int64_t, std::string>> request_order_;         ///< (created, id), oldest first
  std::map<std::string, std::map<int64_t, v1::MetricPoint>> points_;  ///< by job, by step
  std::map<std::string, int64_t> point_stride_;                       ///< by job: only multiples are kept
  std::map<std::string, ReportedLoad> reported_load_;                 ///< by job, of the last report
  std::set<std::string> changed_pipelines_;
  std::chrono::steady_clock::time_point last_call_;  ///< of notice_stall()
};

}  // namespace moe
