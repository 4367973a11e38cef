#include "train/metrics_log.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "common/json_lines.h"
#include "common/log.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
constexpr char kName[] = "metrics.jsonl";

int64_t step_of(const nlohmann::json& line) {
  return line.value("step", int64_t{0});
}

/// The file whose lines up to `step` an attempt starts with: that of the attempt `from`, or of the newest one before
/// `folder` that reached the step if that has lost them: not always the last one, which may have started from an older
/// checkpoint and died early. Attempt folders sort by name. Empty if there is none.
fs::path earlier_log(const fs::path& attempts, const fs::path& folder, int64_t step, int from) {
  std::vector<fs::path> earlier;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(attempts, missing)) {
    if (entry.path().filename() < folder.filename() && fs::exists(entry.path() / kName))
      earlier.push_back(entry.path() / kName);
  }
  std::sort(earlier.rbegin(), earlier.rend());
  const std::string first = JobFolder::attempt_name(from);
  std::stable_partition(earlier.begin(), earlier.end(),
                        [&](const fs::path& path) { return path.parent_path().filename() == first; });
  fs::path longest;
  int64_t most = 0, reached = 0;
  for (const fs::path& path : earlier) {
    int64_t lines = 0, last = 0;
    for_each_json_line(path, [&](nlohmann::json&& line) {
      if (step_of(line) > step) return;
      ++lines;
      last = step_of(line);
    });
    if (lines > most) {
      most = lines;
      reached = last;
      longest = path;
    }
    if (most > 0 && reached == step) break;
  }
  return longest;
}

/// Copies the lines up to `step`, holding one at a time: a long run has millions. Returns the bytes written.
uint64_t copy_lines(const fs::path& from, int64_t step, const fs::path& to) {
  constexpr size_t kBlock = 1 << 16;
  AtomicFile file(to);
  uint64_t written = 0;
  std::string block;
  const auto write_block = [&] {
    file.write(block);
    written += block.size();
    block.clear();
  };
  if (!from.empty()) {
    for_each_json_line(from, [&](nlohmann::json&& line) {
      if (step_of(line) > step) return;
      block += line.dump() + "\n";
      if (block.size() >= kBlock) write_block();
    });
  }
  write_block();
  file.commit();
  return written;
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& attempts, const fs::path& folder, int64_t resume_step, int resume_attempt,
                       size_t most_waiting)
    : path_(folder / kName), most_waiting_(most_waiting) {
  make_directories(folder);
  written_ = copy_lines(resume_step > 0 ? earlier_log(attempts, folder, resume_step, resume_attempt) : fs::path(),
                        resume_step, path_);
  out_.open(path_, std::ios::app);
}

bool MetricsLog::try_to_write() {
  for (const std::string& line : waiting_) out_ << line;
  out_ << std::flush;
  if (out_) {
    written_ += waiting_bytes_;
    waiting_.clear();
    waiting_bytes_ = 0;
    if (dropped_ > 0)
      log_warning(concat("event=metrics_lines_dropped lines=", dropped_, " path=", path_.string(),
                         "; there was no room for them, nor for more to wait"));
    dropped_ = 0;
    return true;
  }
  // Half a line may stand there, or the stream may hold some of it back: begin again behind the last whole one.
  out_.close();
  out_.clear();
  std::error_code ignored;
  fs::resize_file(path_, written_, ignored);
  out_.open(path_, std::ios::app);
  return false;
}

void MetricsLog::write(const nlohmann::json& line) {
  const bool is_first = waiting_.empty();
  waiting_.push_back(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  waiting_bytes_ += waiting_.back().size();
  if (try_to_write()) return;
  if (is_first)
    log_warning(concat("event=metrics_not_written path=", path_.string(), "; is the disk full? Training goes on"));
  while (waiting_bytes_ > most_waiting_ && waiting_.size() > 1) {
    waiting_bytes_ -= waiting_.front().size();
    waiting_.pop_front();
    ++dropped_;
  }
}

void MetricsLog::flush() {
  if (!waiting_.empty() && !try_to_write())
    throw StorageError("cannot write " + path_.string() + "; is the disk full?");
}

}  // namespace moe
