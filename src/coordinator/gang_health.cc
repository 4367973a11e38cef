#include "coordinator/gang_health.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "common/error.h"
#include "common/utc_time.h"

namespace moe {
namespace {

using google::protobuf::util::TimeUtil;

constexpr int64_t kMicrosPerSecond = 1'000'000;
/// Older faults say nothing of a machine.
constexpr int64_t kForgetMicros = 24LL * 3600 * kMicrosPerSecond;

int64_t time_of(const v1::GangFault& fault) { return TimeUtil::TimestampToMicroseconds(fault.at()); }

}  // namespace

void GangHealth::load(const v1::GangFaults& faults) {
  for (const v1::GangFault& fault : faults.faults()) {
    faults_[faults.launcher_id()][fault.job_id()] = fault;
    gangs_of_job_[fault.job_id()].insert(faults.launcher_id());
  }
}

bool GangHealth::counts(const v1::GangFault& fault) const {
  return fault.is_proven() || (fault.could_run_elsewhere() && gangs_of_job_.at(fault.job_id()).size() == 1);
}

std::vector<const v1::GangFault*> GangHealth::counted(const std::string& gang) const {
  std::vector<const v1::GangFault*> all;
  const auto faults = faults_.find(gang);
  if (faults == faults_.end()) return all;
  for (const auto& [job, fault] : faults->second) {
    if (counts(fault)) all.push_back(&fault);
  }
  std::sort(all.begin(), all.end(), [](const v1::GangFault* a, const v1::GangFault* b) { return time_of(*a) < time_of(*b); });
  return all;
}

std::vector<std::string> GangHealth::failed(const std::string& gang, const v1::GangFault& fault) {
  const int64_t now = time_of(fault);
  const bool was = is_quarantined(gang, now);
  Faults& faults = faults_[gang];
  for (auto old = faults.begin(); old != faults.end();) {
    if (now - time_of(old->second) < kForgetMicros) {
      ++old;
      continue;
    }
    gangs_of_job_[old->first].erase(gang);
    old = faults.erase(old);
  }
  faults[fault.job_id()] = fault;
  gangs_of_job_[fault.job_id()].insert(gang);
  changed_.insert(gang);
  if (!was && is_quarantined(gang, now)) return {gang};
  return {};
}

std::vector<std::string> GangHealth::worked(const std::string& gang, const std::string& job, int64_t step, int64_t now_micros) {
  if (const auto sound = faults_.find(gang); sound != faults_.end()) {
    for (const auto& [other, fault] : sound->second) gangs_of_job_[other].erase(gang);
    faults_.erase(sound);
    changed_.insert(gang);
  }
  std::vector<std::string> begun;
  const auto gangs = gangs_of_job_.find(job);
  if (gangs == gangs_of_job_.end()) return begun;
  for (const std::string& other : gangs->second) {
    v1::GangFault& fault = faults_.at(other).at(job);
    if (fault.is_proven() || fault.step() >= step) continue;
    const bool was = is_quarantined(other, now_micros);
    fault.set_is_proven(true);
    changed_.insert(other);
    if (!was && is_quarantined(other, now_micros)) begun.push_back(other);
  }
  if (gangs->second.empty()) gangs_of_job_.erase(gangs);
  return begun;
}

bool GangHealth::is_quarantined(const std::string& gang, int64_t now_micros) const {
  const std::vector<const v1::GangFault*> all = counted(gang);
  return all.size() >= kJobsUntilQuarantine && now_micros - time_of(*all.back()) < quarantine_micros_;
}

std::string GangHealth::why(const std::string& gang, int64_t now_micros) const {
  if (!is_quarantined(gang, now_micros)) return "";
  const std::vector<const v1::GangFault*> all = counted(gang);
  const v1::GangFault& last = *all.back();
  return concat("failed ", all.size(), " jobs that others can run, the last ", last.job_id(), ": ", last.message(), "; it gets no more until ",
                utc_text((time_of(last) + quarantine_micros_) / kMicrosPerSecond), ", or until it is mended and its launcher started anew");
}

std::set<std::string> GangHealth::take_changed() { return std::exchange(changed_, {}); }

std::optional<v1::GangFaults> GangHealth::record(const std::string& gang) const {
  const auto faults = faults_.find(gang);
  if (faults == faults_.end()) return std::nullopt;
  v1::GangFaults record;
  record.set_launcher_id(gang);
  for (const auto& [job, fault] : faults->second) *record.add_faults() = fault;
  return record;
}

}  // namespace moe
