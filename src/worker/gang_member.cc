#include "worker/gang_member.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "common/error.h"
#include "common/log.h"
#include "worker/leased_run.h"
#include "worker/preflight.h"
#include "worker/stop_signal.h"

namespace moe {
namespace {

/// A leader whose port refuses for this long is dead; nothing of this process is needed any more.
constexpr std::chrono::seconds kLeaderGone{5};

/// Tells the leader where this rank stands, as long as it lives.
class RunningReports {
 public:
  RunningReports(GangControlClient& control, Communicator& world, WorkerMetrics& metrics, int64_t order_id)
      : control_(control), operations_(world.operations()), metrics_(metrics), order_id_(order_id), thread_([this] {
          run();
        }) {}
  ~RunningReports() {
    done_ = true;
    thread_.join();
  }
  RunningReports(const RunningReports&) = delete;
  RunningReports& operator=(const RunningReports&) = delete;

 private:
  void run() {
    auto answered = std::chrono::steady_clock::now();
    while (!done_) {
      const OperationState state = operations_->state();
      metrics_.set_comm_inflight(state.seconds_in_flight());
      if (control_.report_running(order_id_, state, "")) {
        answered = std::chrono::steady_clock::now();
      } else if (std::chrono::steady_clock::now() - answered > kLeaderGone) {
        log_error("event=leader_gone; this rank ends");
        ::_exit(static_cast<int>(ExitCode::kHardware));
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
      }
    }
  }

  GangControlClient& control_;
  const std::shared_ptr<OperationLog> operations_;
  WorkerMetrics& metrics_;
  const int64_t order_id_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace

GangMember::GangMember(const GangSettings& settings, Communicator& world, WorkerMetrics& metrics,
                       const std::string& target, const std::string& secret)
    : settings_(settings), world_(world), metrics_(metrics), control_(target, secret, world.rank()) {
  outlive_end_signal();
}

ExitCode GangMember::run() {
  v1::RankPhase phase = v1::RANK_PHASE_IDLE;
  int64_t order_id = 0;
  std::string lease;
  v1::Refusal refusal;
  while (true) {
    const v1::RankOrder order = control_.next_order(phase, order_id, refusal);
    order_id = order.order_id();
    refusal.Clear();
    switch (order.kind()) {
      case v1::ORDER_KIND_PREPARE: {
        phase = v1::RANK_PHASE_READY;
        lease = order.lease();
        v1::Lease parsed;
        MOE_CHECK(parsed.ParseFromString(lease), "the lease cannot be read");
        refusal = preflight(parsed, settings_.data_root, world_.size(), settings_.device);
        break;
      }
      case v1::ORDER_KIND_START: run_job(order, lease); [[fallthrough]];
      case v1::ORDER_KIND_DROP: phase = v1::RANK_PHASE_IDLE; break;
      case v1::ORDER_KIND_EXIT: return static_cast<ExitCode>(order.exit_code());
      default: break;
    }
  }
}

void GangMember::run_job(const v1::RankOrder& order, const std::string& bytes) {
  v1::Lease lease;
  MOE_CHECK(lease.ParseFromString(bytes), "the lease cannot be read");
  try {
    const RunningReports reports(control_, world_, metrics_, order.order_id());
    run_leased({.lease = lease, .data_root = settings_.data_root, .world = world_, .metrics = metrics_});
  } catch (const std::exception& error) {
    // The leader tells the coordinator; then this rank ends the gang.
    control_.report_running(order.order_id(), world_.operations()->state(), message_of(error));
    throw;
  }
}

}  // namespace moe
