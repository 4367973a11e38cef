#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "moe/v1/state.pb.h"

namespace moe {

/// Whose fault failed attempts were: evidence by gang (its launcher's id, which a restarted gang keeps). A pure table
/// with its rules; no store, no clock.
///
/// What a gang failed for a reason of its own (a crash, its machine, inputs that it cannot read) is held against it if
/// the job was seen to go on elsewhere, or if another gang could have run it and no other has failed it too: a job that
/// two gangs failed is suspect itself, until one gets further with it. Two different jobs make a quarantine: the gang
/// gets no more jobs for a time. After that one more is enough. A gang that finishes a job, or commits a step of one,
/// is sound: all that is forgotten. So is what is a day old, and what a person forgives.
class GangHealth {
 public:
  static constexpr int kJobsUntilQuarantine = 2;

  explicit GangHealth(int64_t quarantine_micros) : quarantine_micros_(quarantine_micros) {}

  void load(const v1::GangFaults& faults);

  /// Each returns the gangs whose quarantine this begins. `fault.at` is now.
  std::vector<std::string> failed(const std::string& gang, const v1::GangFault& fault);
  /// The gang brought the job to `step`; a finished job is beyond every step.
  std::vector<std::string> worked(const std::string& gang, const std::string& job, int64_t step, int64_t now_micros);

  /// A person says that the gang is mended.
  void forgive(const std::string& gang);
  /// Drops what is older than a day, or than a quarantine where that is longer: launchers that never come back are not
  /// kept for ever.
  void forget_old(int64_t now_micros);

  bool is_quarantined(const std::string& gang, int64_t now_micros) const;
  /// What it did and how long the quarantine lasts, for people; empty: it is in none.
  std::string why(const std::string& gang, int64_t now_micros) const;

  /// Gangs whose record is to be stored again, since the last call.
  std::set<std::string> take_changed();
  /// nullopt: nothing is held against it.
  std::optional<v1::GangFaults> record(const std::string& gang) const;

 private:
  using Faults = std::map<std::string, v1::GangFault>;  ///< by job

  bool counts(const v1::GangFault& fault) const;
  /// What is only forgotten clears nobody: the job stays suspect for the others that failed it.
  void drop(const std::string& gang, const std::string& job);
  void unlink(const std::string& gang, const std::string& job);
  /// Jobs that count against it, oldest first.
  std::vector<const v1::GangFault*> counted(const std::string& gang) const;

  const int64_t quarantine_micros_;
  std::map<std::string, Faults> faults_;
  std::map<std::string, std::set<std::string>> gangs_of_job_;
  std::set<std::string> changed_;
};

}  // namespace moe
