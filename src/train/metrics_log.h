#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace moe {

/// One attempt's metrics.jsonl: one line per step, written as it happens. Every step stands once in it, also after a kill and a
/// resume: an attempt starts with the lines of an earlier one up to the step it resumes from. Used by rank 0.
class MetricsLog {
 public:
  /// `attempts` holds the folders of all attempts; ours is `folder`. Throws StorageError.
  MetricsLog(const std::filesystem::path& attempts, const std::filesystem::path& folder, int64_t resume_step);

  void write(const nlohmann::json& line);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

}  // namespace moe
