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

int64_t time_of(const v1::GangFault& fault) {
  return TimeUtil::TimestampToMicroseconds(fault.at());
}

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
  std::sort(all.begin(), all.end(),
            [](const v1::GangFault* a, const v1::GangFault* b) { return time_of(*a) < time_of(*b); });
  return all;
}

std::vector<std::string> GangHealth::failed(const std::string& gang, const v1::GangFault& fault) {
  const int64_t now = time_of(fault);
  const bool was = is_quarantined(gang, now);
  forget_old(now);
  v1::GangFault& kept = faults_[gang][fault.job_id()];
  const bool was_proven = kept.is_proven();
  kept = fault;
  if (was_proven) kept.set_is_proven(true);  // failing the job once more is no evidence against that
  gangs_of_job_[fault.job_id()].insert(gang);
  changed_.insert(gang);
  if (!was && is_quarantined(gang, now)) return {gang};
  return {};
}

std::vector<std::string> GangHealth::worked(const std::string& gang, const std::string& job, int64_t step,
                                            int64_t now_micros) {
  forgive(gang);
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
  return begun;
}

void GangHealth::unlink(const std::string& gang, const std::string& job) {
  const auto gangs = gangs_of_job_.find(job);
  gangs->second.erase(gang);
  if (gangs->second.empty()) gangs_of_job_.erase(gangs);
}

void GangHealth::drop(const std::string& gang, const std::string& job) {
  const auto faults = faults_.find(gang);
  faults->second.erase(job);
  if (faults->second.empty()) faults_.erase(faults);
  changed_.insert(gang);
  unlink(gang, job);
  const auto others = gangs_of_job_.find(job);
  if (others == gangs_of_job_.end()) return;
  for (const std::string& other : others->second) {
    v1::GangFault& fault = faults_.at(other).at(job);
    if (fault.is_proven() || !fault.could_run_elsewhere()) continue;
    fault.set_could_run_elsewhere(false);
    changed_.insert(other);
  }
}

void GangHealth::forgive(const std::string& gang) {
  while (faults_.contains(gang)) drop(gang, std::string(faults_.at(gang).begin()->first));
}

void GangHealth::forget_old(int64_t now_micros) {
  std::vector<std::pair<std::string, std::string>> old;
  for (const auto& [gang, faults] : faults_) {
    if (is_quarantined(gang, now_micros)) continue;  // when it ends was told
    for (const auto& [job, fault] : faults) {
      if (now_micros - time_of(fault) >= std::max(kForgetMicros, quarantine_micros_)) old.emplace_back(gang, job);
    }
  }
  for (const auto& [gang, job] : old) drop(gang, job);
}

bool GangHealth::is_quarantined(const std::string& gang, int64_t now_micros) const {
  const std::vector<const v1::GangFault*> all = counted(gang);
  return all.size() >= kJobsUntilQuarantine && now_micros - time_of(*all.back()) < quarantine_micros_;
}

std::string GangHealth::why(const std::string& gang, int64_t now_micros) const {
  if (!is_quarantined(gang, now_micros)) return "";
  const std::vector<const v1::GangFault*> all = counted(gang);
  const v1::GangFault& last = *all.back();
  return concat("failed ", all.size(), " jobs that others can run, the last ", last.job_id(), ": ", last.message(),
                "; it gets no more until ", utc_text((time_of(last) + quarantine_micros_) / kMicrosPerSecond),
                ", or until it is mended and its launcher started anew, or readmitted (moectl readmit)");
}

std::set<std::string> GangHealth::take_changed() {
  return std::exchange(changed_, {});
}

std::optional<v1::GangFaults> GangHealth::record(const std::string& gang) const {
  const auto faults = faults_.find(gang);
  if (faults == faults_.end()) return std::nullopt;
  v1::GangFaults record;
  record.set_launcher_id(gang);
  for (const auto& [job, fault] : faults->second) *record.add_faults() = fault;
  return record;
}

}  // namespace moe
