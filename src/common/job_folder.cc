#include "common/job_folder.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace fs = std::filesystem;
namespace {

constexpr char kRecord[] = "STAGE.json";
constexpr char kOutputPrefix[] = "output-t";

/// Attempt number -> folder, for names of `prefix` + digits.
std::map<int, fs::path> numbered(const fs::path& folder, const std::string& prefix) {
  std::map<int, fs::path> found;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing)) {
    const std::string name = entry.path().filename().string();
    if (name.size() <= prefix.size() || name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string digits = name.substr(prefix.size());
    if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c) != 0; })) continue;
    found[std::atoi(digits.c_str())] = entry.path();
  }
  return found;
}

}  // namespace

JobFolder::JobFolder(fs::path path) : path_(std::move(path)) {}

JobFolder::JobFolder(const fs::path& root, const std::string& job) : path_(root / job) {}

std::string JobFolder::attempt_name(int attempt) {
  char text[16];
  std::snprintf(text, sizeof text, "%04d", attempt);
  return text;
}

std::string JobFolder::output_name(int attempt) { return kOutputPrefix + attempt_name(attempt); }

std::optional<nlohmann::json> JobFolder::finished(const std::string& digest) const {
  const std::map<int, fs::path> outputs = numbered(path_, kOutputPrefix);
  for (auto output = outputs.rbegin(); output != outputs.rend(); ++output) {
    const fs::path record = output->second / kRecord;
    if (!fs::exists(record)) continue;
    const nlohmann::json parsed = nlohmann::json::parse(read_file(record), nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object() && parsed.value("digest", "") == digest) return parsed;
  }
  return std::nullopt;
}

int JobFolder::next_attempt() const {
  int highest = 0;
  for (const auto& [attempt, path] : numbered(path_ / "attempts", "")) highest = std::max(highest, attempt);
  for (const auto& [attempt, path] : numbered(path_, kOutputPrefix)) highest = std::max(highest, attempt);
  return highest + 1;
}

fs::path JobFolder::attempt_path(int attempt) const { return path_ / "attempts" / attempt_name(attempt); }

std::string JobFolder::checkpoint_name(int64_t step, int attempt) {
  char text[64];
  std::snprintf(text, sizeof text, "s%08lld-t%04d", static_cast<long long>(step), attempt);
  return text;
}

fs::path JobFolder::log_path(int attempt, std::optional<int> rank) const {
  char text[32] = "gang.log";
  if (rank) std::snprintf(text, sizeof text, "rank-%05d.log", *rank);
  return attempt_path(attempt) / "logs" / text;
}

fs::path JobFolder::output_path(int attempt) const { return path_ / output_name(attempt); }

void JobFolder::record_finished(int attempt, const nlohmann::json& record) const {
  write_file_atomically(output_path(attempt) / kRecord, record.dump(1) + "\n");
}

void JobFolder::forget_checkpoints() const {
  std::error_code error;
  fs::remove_all(path_ / "checkpoints", error);
  if (error) throw StorageError(concat("cannot remove ", (path_ / "checkpoints").string(), ": ", error.message()));
}

}  // namespace moe
