#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace moe {

/// One attempt's metrics.jsonl: one line per step, written as it happens. Every step stands once in it, also after a
/// kill and a resume: an attempt starts with the lines of an earlier one up to the step it resumes from. Used by rank
/// 0.
class MetricsLog {
 public:
  /// `attempts` holds the folders of all attempts; ours is `folder`. The lines up to `resume_step` are those of the
  /// attempt that wrote the checkpoint, since another may have had another configuration; 0: it is not known. Throws
  /// StorageError.
  MetricsLog(const std::filesystem::path& attempts, const std::filesystem::path& folder, int64_t resume_step,
             int resume_attempt = 0, size_t most_waiting = 8 << 20);

  /// A line that cannot be written now (a full disk) waits, is warned of, and goes with a later one. More than
  /// `most_waiting` bytes do not wait: the oldest lines are dropped, and their number is told when there is room again.
  /// Throws nothing.
  void write(const nlohmann::json& line);
  /// Before anything counts on the lines: throws StorageError if one still waits.
  void flush();
  const std::filesystem::path& path() const { return path_; }

 private:
  bool try_to_write();

  std::filesystem::path path_;
  std::ofstream out_;
  uint64_t written_ = 0;  ///< bytes of whole lines in the file
  size_t most_waiting_ = 0;
  std::deque<std::string> waiting_;
  size_t waiting_bytes_ = 0;
  int64_t dropped_ = 0;
};

}  // namespace moe
