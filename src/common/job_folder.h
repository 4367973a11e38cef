#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moe {

/// Where a root keeps calibrations, for all its jobs. No job's files can have the names of what lies in it, not even
/// those of a stage "calibrations".
inline std::filesystem::path calibrations_path(const std::filesystem::path& root) {
  return root / "calibrations";
}

/// The folder of one job of a pipeline: <root>/<job>/{checkpoints, attempts/<n>/, output-t<n>/}. Attempts count up;
/// nothing of an earlier attempt is overwritten. Used by rank 0 alone, under the pipeline's lock; the names and paths
/// by anyone.
class JobFolder {
 public:
  explicit JobFolder(std::filesystem::path path);
  JobFolder(const std::filesystem::path& root, const std::string& job);

  /// "0001".
  static std::string attempt_name(int attempt);
  /// "output-t0001".
  static std::string output_name(int attempt);
  /// "s00000010-t0001".
  static std::string checkpoint_name(int64_t step, int attempt);

  const std::filesystem::path& path() const { return path_; }

  /// Records of the outputs that are complete, newest first.
  std::vector<nlohmann::json> records() const;
  /// Attempts that were begun, newest first.
  std::vector<int> attempts() const;
  /// Highest attempt so far + 1, and never below one that fresh() names: what is made from now on is to count.
  int next_attempt() const;
  std::filesystem::path attempt_path(int attempt) const;
  std::filesystem::path output_path(int attempt) const;
  /// Log of one rank, or of the gang: the leader's lines and the warnings of all ranks.
  std::filesystem::path log_path(int attempt, std::optional<int> rank) const;
  std::filesystem::path checkpoints_path() const { return path_ / "checkpoints"; }
  /// Written first: {"config": .., "inputs": ..} as attempts/<n>/stage.json (the effective stage) and inputs.json
  /// (digests). Makes the attempt's folder.
  void record_begun(int attempt, const nlohmann::json& configuration) const;
  /// What was begun with --fresh, [{"attempt", "launchers", "config", "inputs"}] as fresh.json has it: attempts below
  /// `attempt` do not count for that configuration. Empty if there is nothing.
  std::vector<nlohmann::json> fresh() const;
  void record_fresh(const std::vector<nlohmann::json>& entries) const;
  /// What record_begun() wrote; without "inputs" if an earlier version did, null if there is nothing.
  nlohmann::json begun(int attempt) const;
  /// Written last into the output: from here on the job is done. Atomic.
  void record_finished(int attempt, const nlohmann::json& record) const;

 private:
  std::filesystem::path path_;
};

}  // namespace moe
