#include "worker/preflight.h"

#include <unistd.h>

#include <map>

#include "common/error.h"
#include "worker/stage_inputs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Room that a job's results need, as a multiple of the model it reads: training keeps checkpoints of weights and two moments.
constexpr double kTrainRoom = 8;
constexpr double kOtherRoom = 2;

uintmax_t bytes_below(const fs::path& folder) {
  uintmax_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (entry.is_regular_file(ignored)) bytes += entry.file_size(ignored);
  }
  return bytes;
}

}  // namespace

std::string node_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return printable(name);
}

std::map<std::string, fs::path> model_paths(const v1::Lease& lease, const fs::path& data_root) {
  std::map<std::string, fs::path> paths;
  for (const auto& [reference, model] : lease.models()) paths[reference] = model.is_output() ? data_root / model.path() : fs::path(model.path());
  return paths;
}

std::vector<std::string> preflight_problems(const v1::Lease& lease, const fs::path& data_root, int ranks) {
  std::vector<std::string> problems;
  const std::string here = concat(" (on ", node_name(), ")");
  const v1::GangSpec& gang = lease.stage().gang();
  if (gang.device() == "cuda") problems.emplace_back("gang.device cuda: training on GPUs is not part of this version; use cpu");
  if (gang.ranks() > 0 && gang.ranks() != ranks) problems.push_back(concat("gang.ranks is ", gang.ranks(), " and this gang has ", ranks));
  if (gang.expert_parallel() > 0 && ranks % gang.expert_parallel() != 0) {
    problems.push_back(concat("gang.expert_parallel ", gang.expert_parallel(), " does not divide the ", ranks, " ranks of this gang"));
  }
  const std::map<std::string, fs::path> known = model_paths(lease, data_root);
  uintmax_t model_bytes = 0;
  visit_inputs(
      lease.stage(),
      [&](const std::string& reference) {
        const auto found = known.find(reference);
        const fs::path folder = found == known.end() ? fs::path(reference) : found->second;
        if (!fs::is_regular_file(folder / "config.json")) {
          problems.push_back(concat("model '", reference, "': ", folder.string(), " is not a model directory: config.json is missing", here));
          return;
        }
        model_bytes = std::max(model_bytes, bytes_below(folder));
      },
      [&](const std::string& path) {
        if (::access(path.c_str(), R_OK) != 0 || !fs::is_regular_file(path)) problems.push_back(concat("data file ", path, " is missing or cannot be read", here));
      });
  std::error_code error;
  fs::create_directories(data_root / lease.job_id(), error);
  if (error || ::access((data_root / lease.job_id()).c_str(), W_OK) != 0) {
    problems.push_back(concat("the data root ", data_root.string(), " cannot be written", here));
    return problems;
  }
  const fs::space_info room = fs::space(data_root, error);
  const auto wanted = static_cast<uintmax_t>(static_cast<double>(model_bytes) * (lease.stage().has_train() ? kTrainRoom : kOtherRoom));
  if (!error && room.available < wanted) {
    problems.push_back(concat("the data root ", data_root.string(), " has ", room.available >> 20, " MiB free; results and checkpoints of this job need about ",
                              wanted >> 20, " MiB", here));
  }
  return problems;
}

}  // namespace moe
