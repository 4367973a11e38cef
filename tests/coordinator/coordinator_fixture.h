#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/coordinator.h"
#include "testing/fake_clock.h"
#include "testing/temp_dir.h"

namespace moe::testing {

/// A pipeline from YAML, checked and as a user would send it.
v1::PipelineSpec spec_of(const std::string& yaml);

/// One evaluation, stage "work", for a gang of `ranks` (0: any).
v1::PipelineSpec one_stage(const std::string& name = "one", int ranks = 1);

/// convert -> parity-eval -> gate parity (HOLD above 3) -> stage1 -> evaluate, for gangs of 1.
v1::PipelineSpec chain(const std::string& name = "chain");

/// Two trainings, a and b, of one dense model, independent of each other, and c, an evaluation of a's model.
v1::PipelineSpec fork(const std::string& name = "fork");

/// Counters of what the coordinator told its observer.
struct Observed {
  std::map<std::string, int> expired, restarted, finished;
  int fenced = 0;
};

/// A coordinator over a real store in a temporary folder, with a clock that the test moves, and gangs that are played
/// by calls. One thread, except where a test calls coordinator() itself.
class CoordinatorFixture {
 public:
  /// Of its data root; register_gang() sends it.
  static constexpr char kRootId[] = "root-of-the-test";

  explicit CoordinatorFixture(std::chrono::milliseconds lease = std::chrono::seconds(15));

  Coordinator& coordinator() { return *coordinator_; }
  Store& store() { return *store_; }
  FakeClock& clock() { return clock_; }
  Observed& observed() { return observed_; }
  /// Told of every change, like the long polls of the program. Called under the coordinator's lock.
  std::function<void()> on_change = [] {};
  const std::filesystem::path& root() const { return folder_.path(); }

  /// Ends the coordinator and its store and starts both again on the same file.
  void restart();
  /// Moves the clock by small steps, with a tick after each.
  void pass(std::chrono::milliseconds time);
  void wait_until_durable();

  // Users.
  std::string new_request_id();
  v1::SubmitRequest submit_request(const v1::PipelineSpec& spec);
  /// The pipeline's id.
  std::string submit(const v1::PipelineSpec& spec);
  v1::ControlRequest control(const std::string& id, const std::string& comment = "");
  v1::Pipeline pipeline(const std::string& id);
  v1::Job job(const std::string& id);
  /// "QUEUED"
  std::string state(const std::string& job_id);
  /// "<phase>: <stage> <STATE>, ..." of a pipeline.
  std::string story(const std::string& pipeline_id);
  absl::StatusOr<v1::ControlResponse> decide(const std::string& pipeline_id, bool approve,
                                             const std::string& gate = "");

  // Gangs.
  void register_gang(const std::string& id, int ranks = 1, const std::string& launcher = "",
                     std::optional<int> previous_exit_code = std::nullopt);
  absl::Status deregister_gang(const std::string& id, const std::string& reason = "");
  std::optional<v1::Lease> acquire(const std::string& gang);
  /// acquire() of a gang that must get one.
  v1::Lease must_acquire(const std::string& gang);
  /// The gang does what comes before the gate of chain(), which then holds it.
  void run_chain_to_its_gate(const std::string& gang);
  absl::StatusOr<v1::HeartbeatResponse> heartbeat(const std::string& gang, const v1::Lease& lease,
                                                  const std::string& phase = "training", int64_t step = 0);
  absl::Status report(const std::string& gang, const v1::Lease& lease, const std::vector<int64_t>& steps);
  /// Writes the checkpoint's manifest first.
  absl::Status commit(const std::string& gang, const v1::Lease& lease, int64_t step);
  /// Writes the output's record first, if it succeeded.
  absl::Status complete(const std::string& gang, const v1::Lease& lease,
                        v1::AttemptOutcome outcome = v1::ATTEMPT_OUTCOME_SUCCEEDED,
                        const std::map<std::string, double>& metrics = {}, const std::string& message = "",
                        int exit_code = 0);
  v1::CommitCheckpointRequest commit_request(const std::string& gang, const v1::Lease& lease, int64_t step);
  v1::CompleteAttemptRequest complete_request(const std::string& gang, const v1::Lease& lease,
                                              v1::AttemptOutcome outcome);

  /// Job -> state, as the database has them.
  std::map<std::string, std::string> stored_states();
  /// Launchers against which the database holds something.
  std::set<std::string> stored_faults();
  /// Everything that must survive a restart, as text by name.
  std::map<std::string, std::string> snapshot() { return snapshot_of(*coordinator_); }
  /// The same of a coordinator that is started on a copy of the store's files.
  std::map<std::string, std::string> snapshot_of_fresh_load();

 private:
  static std::map<std::string, std::string> snapshot_of(Coordinator& coordinator);
  void start();
  void copy_store(const TempDir& folder);

  TempDir folder_;
  FakeClock clock_;
  CoordinatorOptions options_;
  Observed observed_;
  int requests_ = 0;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace moe::testing
