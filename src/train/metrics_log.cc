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

/// The lines up to `step` of the attempt `from`, or of the newest one before `folder` that reached it if that has lost them: not always
/// the last one, which may have started from an older checkpoint and died early. Attempt folders sort by name.
std::vector<nlohmann::json> earlier_lines(const fs::path& attempts, const fs::path& folder, int64_t step, int from) {
  std::vector<fs::path> earlier;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(attempts, missing)) {
    if (entry.path().filename() < folder.filename() && fs::exists(entry.path() / kName)) earlier.push_back(entry.path() / kName);
  }
  std::sort(earlier.rbegin(), earlier.rend());
  const std::string first = JobFolder::attempt_name(from);
  std::stable_partition(earlier.begin(), earlier.end(), [&](const fs::path& path) { return path.parent_path().filename() == first; });
  std::vector<nlohmann::json> longest;
  for (const fs::path& path : earlier) {
    std::vector<nlohmann::json> lines;
    for (nlohmann::json& line : read_json_lines(path)) {
      if (line.value("step", int64_t{0}) <= step) lines.push_back(std::move(line));
    }
    if (lines.size() > longest.size()) longest = std::move(lines);
    if (!longest.empty() && longest.back().value("step", int64_t{0}) == step) break;
  }
  return longest;
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& attempts, const fs::path& folder, int64_t resume_step, int resume_attempt) : path_(folder / kName) {
  make_directories(folder);
  std::string kept;
  if (resume_step > 0) {
    for (const nlohmann::json& line : earlier_lines(attempts, folder, resume_step, resume_attempt)) kept += line.dump() + "\n";
  }
  write_file_atomically(path_, kept);
  out_.open(path_, std::ios::app);
  written_ = kept.size();
}

bool MetricsLog::try_to_write() {
  out_ << waiting_ << std::flush;
  if (out_) {
    written_ += waiting_.size();
    waiting_.clear();
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
  waiting_ += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (!try_to_write() && is_first) log_warning(concat("event=metrics_not_written path=", path_.string(), "; is the disk full? Training goes on"));
}

void MetricsLog::flush() {
  if (!waiting_.empty() && !try_to_write()) throw StorageError("cannot write " + path_.string() + "; is the disk full?");
}

}  // namespace moe
