#include "worker/gang_leader.h"

#include <thread>

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

GangLeader::GangLeader(const GangSettings& settings, Communicator& world, WorkerMetrics& metrics, GangControlServer& control, v1::Gang gang)
    : settings_(settings), world_(world), metrics_(metrics), control_(control), client_(settings.coordinator, std::move(gang)) {}

void GangLeader::connect() {
  const auto deadline = std::chrono::steady_clock::now() + kConnectFor;
  while (true) {
    try {
      client_.register_gang();
      log_info(concat("event=gang_ready gang=", client_.gang_id(), " ranks=", world_.size(), " coordinator=", settings_.coordinator));
      return;
    } catch (const Unavailable& error) {
      if (std::chrono::steady_clock::now() > deadline) {
        throw Unavailable(concat("no coordinator at ", settings_.coordinator, " (", error.what(), "); start moe-coordinator, or give the right --coordinator HOST:PORT"));
      }
      std::this_thread::sleep_for(kRetry);
    }
  }
}

std::optional<v1::Lease> GangLeader::next_lease() {
  try {
    return client_.acquire(kAcquireWait);
  } catch (const Unavailable&) {
    std::this_thread::sleep_for(kRetry);   // an idle gang has nothing to lose: it waits
    return std::nullopt;
  }
}

std::string GangLeader::look_at(const v1::Lease& lease) {
  std::string missing;
  for (const std::string& problem : preflight_problems(lease, settings_.data_root, world_.size())) missing += (missing.empty() ? "" : "\n") + problem;
  const std::optional<std::string> others = control_.prepare(lease.SerializeAsString(), kPrepareTimeout);
  // A rank of the same node misses the same.
  if (missing.empty() && others) missing = *others;
  return missing;
}

bool GangLeader::run_job(const v1::Lease& lease) {
  LeaseAgent agent(client_, lease, settings_.orphan_limit);
  const WatchedLease watched(*watchdog_, agent);
  v1::CompleteAttemptRequest end;
  try {
    if (const std::string missing = look_at(lease); !missing.empty()) {
      control_.drop();
      log_error(concat("event=job_refused job=", lease.job_id(), " reason=\"", missing, "\""));
      end = failed_attempt(InvalidArgument(missing));
    } else {
      control_.start();
      end = run_leased({.lease = lease, .data_root = settings_.data_root, .world = world_, .metrics = metrics_, .agent = &agent});
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
    log_warning(concat("event=end_not_reported reason=\"", error.what(), "\"; the job goes on from its last committed checkpoint"));
    return false;
  } catch (const InvalidArgument& error) {   // the coordinator does not accept this end: say why, so that a person can act
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
