#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace moe {

/// One attempt's metrics.jsonl: one line per step, written as it happens. Every step stands once in it, also after a kill and a
/// resume: an attempt starts with the lines of an earlier one up to the step it resumes from. Used by rank 0.
class MetricsLog {
 public:
  /// `attempts` holds the folders of all attempts; ours is `folder`. The lines up to `resume_step` are those of the attempt that wrote
  /// the checkpoint, since another may have had another configuration; 0: it is not known. Throws StorageError.
  MetricsLog(const std::filesystem::path& attempts, const std::filesystem::path& folder, int64_t resume_step, int resume_attempt = 0);

  /// A line that cannot be written now (a full disk) waits, is warned of, and goes with a later one. Throws nothing.
  void write(const nlohmann::json& line);
  /// Before anything counts on the lines: throws StorageError if one still waits.
  void flush();
  const std::filesystem::path& path() const { return path_; }

 private:
  bool try_to_write();

  std::filesystem::path path_;
  std::ofstream out_;
  uint64_t written_ = 0;   ///< bytes of whole lines in the file
  std::string waiting_;
};

}  // namespace moe
