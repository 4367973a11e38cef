#include "train/metrics_log.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_lines.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
constexpr char kName[] = "metrics.jsonl";

/// The lines up to `step` of the newest attempt before `folder` that reached it: not always the last one, which may have started
/// from an older checkpoint and died early. Attempt folders sort by name.
std::vector<nlohmann::json> earlier_lines(const fs::path& attempts, const fs::path& folder, int64_t step) {
  std::vector<fs::path> earlier;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(attempts, missing)) {
    if (entry.path().filename() < folder.filename() && fs::exists(entry.path() / kName)) earlier.push_back(entry.path() / kName);
  }
  std::sort(earlier.rbegin(), earlier.rend());
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

MetricsLog::MetricsLog(const fs::path& attempts, const fs::path& folder, int64_t resume_step) : path_(folder / kName) {
  make_directories(folder);
  std::string kept;
  if (resume_step > 0) {
    for (const nlohmann::json& line : earlier_lines(attempts, folder, resume_step)) kept += line.dump() + "\n";
  }
  write_file_atomically(path_, kept);
  out_.open(path_, std::ios::app);
}

void MetricsLog::write(const nlohmann::json& line) {
  out_ << line.dump() << std::endl;
  if (!out_) throw StorageError("cannot write " + path_.string() + "; is the disk full?");
}

}  // namespace moe
