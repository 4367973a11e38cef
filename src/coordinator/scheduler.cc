#include "coordinator/scheduler.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

constexpr int64_t kMicrosecondsPerSecond = 1'000'000;

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The gang failed this job, and it is another's turn.
bool is_avoided(const QueuedJob& job, const GangShape& gang, const std::vector<GangShape>& gangs, int64_t now) {
  return now < job.avoid_until && contains(job.failed_on, gang.launcher) &&
         another_could_run(job.need, job.failed_on, gang.launcher, gangs);
}

std::string list_sizes(const std::vector<GangShape>& gangs) {
  std::string text;
  for (const GangShape& gang : gangs) text += concat(text.empty() ? "" : ", ", gang.ranks, " ", gang.device);
  return text;
}

}  // namespace

GangNeed need_of(const v1::GangSpec& gang) {
  return {gang.ranks(), gang.expert_parallel(), gang.device().empty() ? "cpu" : gang.device()};
}

bool fits(const GangNeed& need, const GangShape& gang) {
  if (need.device != gang.device) return false;
  if (need.ranks > 0 && need.ranks != gang.ranks) return false;
  return need.expert_parallel <= 0 || gang.ranks % need.expert_parallel == 0;
}

bool another_could_run(const GangNeed& need, const std::vector<std::string>& failed_on, const std::string& launcher,
                       const std::vector<GangShape>& gangs) {
  return std::any_of(gangs.begin(), gangs.end(), [&](const GangShape& other) {
    return other.launcher != launcher && !other.is_quarantined && fits(need, other) &&
           !contains(failed_on, other.launcher);
  });
}

const QueuedJob* pick(const std::set<QueuedJob>& queue, const GangShape& gang, const std::vector<GangShape>& gangs,
                      int64_t now) {
  if (gang.is_quarantined) return nullptr;
  const auto found = std::find_if(queue.begin(), queue.end(), [&](const QueuedJob& job) {
    return job.not_before <= now && fits(job.need, gang) && !is_avoided(job, gang, gangs, now);
  });
  return found == queue.end() ? nullptr : &*found;
}

std::string describe(const GangNeed& need) {
  std::string text = need.ranks > 0
                         ? concat("a gang of ", need.ranks, " ", need.device, " rank", need.ranks == 1 ? "" : "s")
                         : concat("a gang of ", need.device, " ranks");
  if (need.expert_parallel > 0 && need.ranks == 0) text += concat(" whose number ", need.expert_parallel, " divides");
  return text;
}

std::string explain(const std::set<QueuedJob>& queue, const QueuedJob& job, const std::vector<GangShape>& gangs,
                    int64_t now) {
  if (job.not_before > now) {
    return concat("waits ", (job.not_before - now) / kMicrosecondsPerSecond + 1, " s before it is tried again");
  }
  const std::string device = job.need.device == "cpu" ? "" : concat(" --device ", job.need.device);
  const std::string start = concat("; start one: bash deploy/gang.sh --ranks ", std::max(1, job.need.ranks),
                                   " -- moe-worker serve", device, " --coordinator HOST:PORT --data-root DIR");
  if (gangs.empty()) return concat("needs ", describe(job.need), ": no gang is connected", start);
  std::vector<GangShape> fitting;
  std::copy_if(gangs.begin(), gangs.end(), std::back_inserter(fitting),
               [&](const GangShape& gang) { return fits(job.need, gang); });
  if (fitting.empty())
    return concat("needs ", describe(job.need), ": connected gangs have ", list_sizes(gangs), " ranks", start);
  const auto ahead = std::count_if(queue.begin(), queue.end(), [&](const QueuedJob& other) {
    return other < job &&
           std::any_of(fitting.begin(), fitting.end(), [&](const GangShape& gang) { return fits(other.need, gang); });
  });
  const auto idle = std::count_if(fitting.begin(), fitting.end(),
                                  [](const GangShape& gang) { return gang.is_idle && !gang.is_quarantined; });
  const auto quarantined =
      std::count_if(fitting.begin(), fitting.end(), [](const GangShape& gang) { return gang.is_quarantined; });
  const auto avoided = std::count_if(fitting.begin(), fitting.end(), [&](const GangShape& gang) {
    return gang.is_idle && !gang.is_quarantined && is_avoided(job, gang, gangs, now);
  });
  std::string text = concat("needs ", describe(job.need), ": ", fitting.size(), " connected, ", idle, " idle");
  if (quarantined > 0) text += concat(", ", quarantined, " quarantined (moectl get gangs tells why)");
  text += concat("; ", ahead, " job", ahead == 1 ? " is" : "s are", " ahead in the queue");
  if (avoided > 0)
    text += concat("; ", avoided, " idle failed it and may try again in ",
                   (job.avoid_until - now) / kMicrosecondsPerSecond + 1, " s");
  return text;
}

}  // namespace moe
