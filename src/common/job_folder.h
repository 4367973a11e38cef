#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace moe {

/// The folder of one job of a pipeline: <root>/<job>/{checkpoints, attempts/<n>/, output-t<n>/}. Attempts count up; nothing
/// of an earlier attempt is overwritten. Used by rank 0 alone, under the pipeline's lock; the names and paths by anyone.
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

  /// The newest output whose record carries this digest, if the job is done already.
  std::optional<nlohmann::json> finished(const std::string& digest) const;
  /// Highest attempt so far + 1.
  int next_attempt() const;
  std::filesystem::path attempt_path(int attempt) const;
  std::filesystem::path output_path(int attempt) const;
  /// Log of one rank, or of the gang: the leader's lines and the warnings of all ranks.
  std::filesystem::path log_path(int attempt, std::optional<int> rank) const;
  /// Written last into the output: from here on the job is done. Atomic.
  void record_finished(int attempt, const nlohmann::json& record) const;
  /// Checkpoints of earlier runs are not to be resumed from.
  void forget_checkpoints() const;

 private:
  std::filesystem::path path_;
};

}  // namespace moe
