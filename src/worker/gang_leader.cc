#include "worker/gang_leader.h"

#include <thread>
#include <utility>

#include "common/error.h"
#include "common/log.h"
#include "worker/lease_agent.h"
#include "worker/leased_run.h"
#include "worker/preflight.h"
#include "worker/stop_signal.h"

namespace moe {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kAcquireWait{3};
constexpr seconds kConnectFor{20};
constexpr milliseconds kRetry{500};
constexpr milliseconds kAttachTimeout{60'000};
constexpr milliseconds kPrepareTimeout{60'000};

}  // namespace

GangLeader::GangLeader(const GangSettings& settings, Communicator& world, WorkerMetrics& metrics,
                       GangControlServer& control, v1::Gang gang)
    : settings_(settings),
      world_(world),
      metrics_(metrics),
      control_(control),
      client_(settings.coordinator, std::move(gang), settings.data_root) {}

void GangLeader::connect() {
  const auto deadline = std::chrono::steady_clock::now() + kConnectFor;
  bool is_waiting = false;
  while (true) {
    try {
      client_.register_gang();
      log_info(concat("event=gang_ready gang=", client_.gang_id(), " ranks=", world_.size(),
                      " coordinator=", settings_.coordinator));
      return;
    } catch (const Unavailable& error) {
      if (std::chrono::steady_clock::now() > deadline) {
        throw Unavailable(concat("no coordinator at ", settings_.coordinator, " (", error.what(),
                                 "); start moe-coordinator, or give the right --coordinator HOST:PORT"));
      }
      std::this_thread::sleep_for(kRetry);
    } catch (const LauncherTaken& error) {
      if (std::chrono::steady_clock::now() > deadline) throw;
      if (!std::exchange(is_waiting, true))
        log_warning(concat("event=launcher_id_taken reason=\"", error.what(), "\"; waiting ", kConnectFor.count(),
                           " s for it to end"));
      std::this_thread::sleep_for(kRetry);
    }
  }
}

std::optional<v1::Lease> GangLeader::next_lease() {
  try {
    return client_.acquire(kAcquireWait);
  } catch (const Unavailable&) {
    std::this_thread::sleep_for(kRetry);  // an idle gang has nothing to lose: it waits
    return std::nullopt;
  }
}

v1::Refusal GangLeader::look_at(const v1::Lease& lease) {
  v1::Refusal mine = preflight(lease, settings_.data_root, world_.size(), settings_.device);
  std::optional<v1::Refusal> others = control_.prepare(lease.SerializeAsString(), kPrepareTimeout);
  // A rank of the same node misses the same.
  return mine.kind() == v1::REFUSAL_KIND_UNSPECIFIED && others ? *std::move(others) : mine;
}

void GangLeader::look_again(const v1::Lease& lease, v1::CompleteAttemptRequest& end) const {
  const v1::Refusal now = preflight(lease, settings_.data_root, world_.size(), settings_.device);
  if (now.kind() != v1::REFUSAL_KIND_INPUTS && now.kind() != v1::REFUSAL_KIND_DATA_ROOT) return;
  const std::string message = end.message();
  end = refused_attempt(now);
  end.set_message(concat(message, "\nwhat it reads has gone: ", end.message()));
}

bool GangLeader::run_job(const v1::Lease& lease) {
  LeaseAgent agent(client_, lease, settings_.orphan_limit);
  const WatchedLease watched(*watchdog_, agent);
  v1::CompleteAttemptRequest end;
  try {
    if (const v1::Refusal refusal = look_at(lease); refusal.kind() != v1::REFUSAL_KIND_UNSPECIFIED) {
      control_.drop();
      end = refused_attempt(refusal);
      log_error(concat("event=job_refused job=", lease.job_id(), " reason=\"", end.message(), "\""));
    } else {
      control_.start();
      end = run_leased(
          {.lease = lease, .data_root = settings_.data_root, .world = world_, .metrics = metrics_, .agent = &agent});
      if (end.exit_code() == static_cast<int>(ExitCode::kBadInput)) look_again(lease, end);
    }
  } catch (const Fenced&) {
    throw;
  } catch (const std::exception& error) {
    agent.complete_once(failed_attempt(error));
    throw;
  }
  const bool is_released = end.outcome() == v1::ATTEMPT_OUTCOME_RELEASED;
  const bool stays = !is_released || agent.is_release_asked();
  try {
    agent.complete(end);
  } catch (const Unavailable& error) {
    log_warning(concat("event=end_not_reported reason=\"", error.what(),
                       "\"; the job goes on from its last committed checkpoint"));
    return false;
  } catch (
      const InvalidArgument& error) {  // the coordinator does not accept this end: say why, so that a person can act
    agent.complete(failed_attempt(error));
  }
  return stays && !agent.is_orphaned();
}

ExitCode GangLeader::leave(const std::string& reason) {
  watchdog_.reset();
  client_.deregister(reason);
  control_.exit(static_cast<int>(ExitCode::kReleased));
  log_info(concat("event=gang_left reason=\"", reason, "\""));
  return ExitCode::kReleased;
}

ExitCode GangLeader::run() {
  control_.await_ranks(kAttachTimeout);
  connect();
  watchdog_.emplace(control_, client_, world_, metrics_, settings_.hang_timeout);
  while (!stop_signalled()) {
    const std::optional<v1::Lease> lease = next_lease();
    if (lease && !run_job(*lease)) return leave("released");
  }
  return leave("SIGUSR1");
}

}  // namespace moe
