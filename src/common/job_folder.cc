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
constexpr char kStage[] = "stage.json";
constexpr char kInputs[] = "inputs.json";
constexpr char kFresh[] = "fresh.json";
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

/// Null if the file is missing, torn or no JSON: it records nothing then.
nlohmann::json json_file(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  nlohmann::json parsed = nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  return parsed.is_discarded() ? nlohmann::json() : parsed;
}

}  // namespace

JobFolder::JobFolder(fs::path path) : path_(std::move(path)) {}

JobFolder::JobFolder(const fs::path& root, const std::string& job) : path_(root / job) {}

std::string JobFolder::attempt_name(int attempt) {
  char text[16];
  std::snprintf(text, sizeof text, "%04d", attempt);
  return text;
}

std::string JobFolder::output_name(int attempt) {
  return kOutputPrefix + attempt_name(attempt);
}

std::vector<nlohmann::json> JobFolder::records() const {
  std::vector<nlohmann::json> records;
  const std::map<int, fs::path> outputs = numbered(path_, kOutputPrefix);
  for (auto output = outputs.rbegin(); output != outputs.rend(); ++output) {
    nlohmann::json record = json_file(output->second / kRecord);
    if (record.is_object() && record.contains("attempt")) records.push_back(std::move(record));
  }
  return records;
}

std::vector<int> JobFolder::attempts() const {
  std::vector<int> found;
  for (const auto& [attempt, path] : numbered(path_ / "attempts", "")) found.insert(found.begin(), attempt);
  return found;
}

int JobFolder::next_attempt() const {
  int highest = 0;
  for (const auto& [attempt, path] : numbered(path_ / "attempts", "")) highest = std::max(highest, attempt);
  for (const auto& [attempt, path] : numbered(path_, kOutputPrefix)) highest = std::max(highest, attempt);
  for (const nlohmann::json& entry : fresh()) highest = std::max(highest, entry["attempt"].get<int>() - 1);
  return highest + 1;
}

fs::path JobFolder::attempt_path(int attempt) const {
  return path_ / "attempts" / attempt_name(attempt);
}

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

fs::path JobFolder::output_path(int attempt) const {
  return path_ / output_name(attempt);
}

void JobFolder::record_finished(int attempt, const nlohmann::json& record) const {
  write_file_atomically(output_path(attempt) / kRecord, record.dump(1) + "\n");
}

void JobFolder::record_begun(int attempt, const nlohmann::json& configuration) const {
  make_directories(attempt_path(attempt));
  write_file_atomically(attempt_path(attempt) / kInputs, configuration.at("inputs").dump(1) + "\n");
  write_file_atomically(attempt_path(attempt) / kStage, configuration.at("config").dump(1) + "\n");
}

std::vector<nlohmann::json> JobFolder::fresh() const {
  std::vector<nlohmann::json> entries;
  const nlohmann::json recorded = json_file(path_ / kFresh);
  if (!recorded.is_array()) return entries;
  for (const nlohmann::json& entry : recorded) {
    if (entry.is_object() && entry.contains("attempt") && entry["attempt"].is_number_integer())
      entries.push_back(entry);
  }
  return entries;
}

void JobFolder::record_fresh(const std::vector<nlohmann::json>& entries) const {
  make_directories(path_);
  write_file_atomically(path_ / kFresh,
                        nlohmann::json(entries).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

nlohmann::json JobFolder::begun(int attempt) const {
  nlohmann::json stage = json_file(attempt_path(attempt) / kStage);
  if (!stage.is_object()) return nullptr;
  nlohmann::json configuration = {{"config", std::move(stage)}};
  if (nlohmann::json inputs = json_file(attempt_path(attempt) / kInputs); inputs.is_object())
    configuration["inputs"] = std::move(inputs);
  return configuration;
}

}  // namespace moe
