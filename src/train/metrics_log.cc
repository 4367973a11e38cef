#include "train/metrics_log.h"

#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
constexpr char kName[] = "metrics.jsonl";

/// The newest attempt before `folder` that has metrics; attempt folders sort by name.
fs::path previous_metrics(const fs::path& attempts, const fs::path& folder) {
  fs::path newest;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(attempts, missing)) {
    const bool is_earlier = entry.path().filename() < folder.filename();
    if (is_earlier && fs::exists(entry.path() / kName) && entry.path() > newest) newest = entry.path();
  }
  return newest.empty() ? newest : newest / kName;
}

}  // namespace

std::vector<nlohmann::json> read_metrics(const fs::path& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(path);
  for (std::string text; std::getline(in, text);) {
    nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object()) lines.push_back(std::move(line));
  }
  return lines;
}

MetricsLog::MetricsLog(const fs::path& attempts, const fs::path& folder, int64_t resume_step) : path_(folder / kName) {
  make_directories(folder);
  std::string kept;
  if (const fs::path previous = previous_metrics(attempts, folder); resume_step > 0 && !previous.empty()) {
    for (const nlohmann::json& line : read_metrics(previous)) {
      if (line.value("step", int64_t{0}) <= resume_step) kept += line.dump() + "\n";
    }
  }
  write_file_atomically(path_, kept);
  out_.open(path_, std::ios::app);
}

void MetricsLog::write(const nlohmann::json& line) {
  out_ << line.dump() << std::endl;
  if (!out_) throw StorageError("cannot write " + path_.string() + "; is the disk full?");
}

}  // namespace moe
