#include "worker/gang_watchdog.h"

#include <unistd.h>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/log.h"

namespace moe {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kLook{100};
/// A rank whose call broke calls again at once, unless its process ended.
constexpr milliseconds kGoneFor{400};
/// The watchdog looks ten times as often, unless this process stands still.
constexpr milliseconds kStoodStill{2000};
/// What it was told within this time after it stood still may be because it did.
constexpr seconds kAfterwards{10};
/// A rank that is gone for this long when SIGTERM comes is the reason for it; one that went later got the same signal.
constexpr milliseconds kGoneBeforeSignal{250};

}  // namespace

GangWatchdog::GangWatchdog(GangControlServer& control, CoordinatorClient& client, Communicator& world,
                           WorkerMetrics& metrics, milliseconds hang_timeout)
    : control_(control),
      client_(client),
      operations_(world.operations()),
      metrics_(metrics),
      hang_timeout_(hang_timeout),
      thread_([this] { run(); }) {}

GangWatchdog::~GangWatchdog() {
  done_ = true;
  thread_.join();
}

void GangWatchdog::run() {
  auto looked = std::chrono::steady_clock::now();
  while (!done_) {
    const auto now = std::chrono::steady_clock::now();
    if (now - looked > kStoodStill) stood_still_ = Standstill{now - looked, now};
    looked = now;
    look();
    std::this_thread::sleep_for(kLook);
  }
}

void GangWatchdog::look() {
  const OperationState state = operations_->state();
  metrics_.set_comm_inflight(state.seconds_in_flight());
  const bool is_ending = end_signal_.came();
  const std::optional<RankTrouble> trouble = control_.trouble(hang_timeout_, is_ending ? kGoneBeforeSignal : kGoneFor);
  const std::lock_guard lock(mutex_);
  if (trouble) end_gang(*trouble, state);
  if (is_ending) end_as_told();
}

void GangWatchdog::end_gang(const RankTrouble& trouble, const OperationState& leader) {
  const ExitCode code = trouble.is_gone     ? ExitCode::kHardware
                        : trouble.is_failed ? ExitCode::kInternal
                                            : ExitCode::kHang;
  std::string message = trouble.message;
  if (agent_ == nullptr) {
    message += " while the gang was idle";
  } else if (leader.number > 0 && !trouble.is_failed) {
    message += concat("; the leader is ", leader.is_in_flight ? "in" : "after", " collective '", leader.name,
                      "' (operation ", leader.number, "); the last ones begun: ", operations_->recent(4));
  }
  log_error(concat("event=gang_broken reason=\"", message, "\""));
  if (agent_ != nullptr) {
    v1::CompleteAttemptRequest end;
    end.set_outcome(v1::ATTEMPT_OUTCOME_RETRYABLE);
    end.set_exit_code(static_cast<int>(code));
    end.set_message(message);
    agent_->complete_once(std::move(end));
  } else {
    client_.deregister(message);
  }
  // A rank that reported an error ends the gang itself, with its own exit code.
  if (trouble.is_failed) std::this_thread::sleep_for(seconds(5));
  ::_exit(static_cast<int>(code));
}

void GangWatchdog::end_as_told() {
  std::string message = "its leader was told to end (SIGTERM)";
  // mpirun wakes a stopped process before it ends it.
  if (stood_still_ && std::chrono::steady_clock::now() - stood_still_->until < kAfterwards) {
    const double stood = std::chrono::duration<double>(stood_still_->length).count();
    message = concat("its leader stood still for ", stood,
                     " s (stopped, or its machine was) and was then told to end (SIGTERM)");
  }
  log_warning(concat("event=gang_left reason=\"", message, "\""));
  if (agent_ != nullptr) agent_->expect_end();
  client_.deregister(message);  // what it ran is free again at once
  EndSignal::end_process();
}

WatchedLease::WatchedLease(GangWatchdog& watchdog, LeaseAgent& agent) : watchdog_(watchdog) {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.agent_ = &agent;
}

WatchedLease::~WatchedLease() {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.agent_ = nullptr;
}

}  // namespace moe
