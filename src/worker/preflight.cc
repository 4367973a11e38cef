#include "worker/preflight.h"

#include <unistd.h>

#include <map>

#include "common/data_root.h"
#include "common/error.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

uintmax_t bytes_below(const fs::path& folder) {
  uintmax_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (entry.is_regular_file(ignored)) bytes += entry.file_size(ignored);
  }
  return bytes;
}

/// exists() and its kin throw where a folder may not be entered.
bool is_readable(const fs::path& file) {
  std::error_code error;
  return fs::is_regular_file(file, error) && ::access(file.c_str(), R_OK) == 0;
}

}  // namespace

std::string node_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return printable(name);
}

std::map<std::string, fs::path> model_paths(const v1::Lease& lease, const fs::path& data_root) {
  std::map<std::string, fs::path> paths;
  for (const auto& [reference, model] : lease.models())
    paths[reference] = model.is_output() ? data_root / model.path() : fs::path(model.path());
  return paths;
}

v1::Refusal preflight(const v1::Lease& lease, const fs::path& data_root, int ranks, const std::string& device) {
  v1::Refusal found;
  const std::string here = concat(" (on ", node_name(), ")");
  // Kinds are numbered by what decides.
  const auto refuse = [&found](v1::RefusalKind kind, std::string problem) {
    if (found.kind() == v1::REFUSAL_KIND_UNSPECIFIED || kind < found.kind()) found.set_kind(kind);
    found.add_problems(std::move(problem));
  };
  try {
    const std::string root = read_root_id(data_root).value_or("");
    if (!lease.root_id().empty() && root != lease.root_id()) {
      refuse(v1::REFUSAL_KIND_DATA_ROOT,
             concat("--data-root ", data_root.string(),
                    root.empty() ? " has no .moe-root-id" : " is the data root " + root, ", and the coordinator's is ",
                    lease.root_id(), ": mount the storage", here));
    }
  } catch (const Error& error) {
    refuse(v1::REFUSAL_KIND_DATA_ROOT, error.what() + here);
  }
  if (found.kind() != v1::REFUSAL_KIND_UNSPECIFIED) return found;  // nothing may be made below it
  const v1::GangSpec& gang = lease.stage().gang();
  if (const std::string wanted = gang.device().empty() ? "cpu" : gang.device(); wanted != device)
    refuse(v1::REFUSAL_KIND_JOB, concat("gang.device is ", wanted, " and this gang computes on ", device));
  if (gang.ranks() > 0 && gang.ranks() != ranks)
    refuse(v1::REFUSAL_KIND_JOB, concat("gang.ranks is ", gang.ranks(), " and this gang has ", ranks));
  if (gang.expert_parallel() > 0 && ranks % gang.expert_parallel() != 0) {
    refuse(v1::REFUSAL_KIND_JOB, concat("gang.expert_parallel ", gang.expert_parallel(), " does not divide the ", ranks,
                                        " ranks of this gang"));
  }
  const std::map<std::string, fs::path> known = model_paths(lease, data_root);
  const JobKind* kind = kind_of(lease.stage());
  const bool is_model_made = kind != nullptr && is_model(kind->leaves);
  uintmax_t model_bytes = 0;
  for (const StageInput& input : inputs_of(lease.stage())) {
    if (!input.is_model) {
      if (is_readable(input.value)) continue;
      refuse(v1::REFUSAL_KIND_INPUTS, concat("data file ", input.value, " is missing or cannot be read", here));
      found.add_unreadable(input.value);
      continue;
    }
    const auto model = known.find(input.value);
    const fs::path folder = model == known.end() ? fs::path(input.value) : model->second;
    if (is_readable(folder / "config.json")) {
      const uintmax_t bytes = bytes_below(folder);
      model_bytes = is_model_made ? model_bytes + bytes : std::max(model_bytes, bytes);
    } else {
      refuse(v1::REFUSAL_KIND_INPUTS, concat("model '", input.value, "': ", folder.string(),
                                             " is not a model directory: config.json is missing", here));
      found.add_unreadable((folder / "config.json").string());
    }
  }
  std::error_code error;
  fs::create_directories(data_root / lease.job_id(), error);
  if (error || ::access((data_root / lease.job_id()).c_str(), W_OK) != 0) {
    refuse(v1::REFUSAL_KIND_DATA_ROOT, concat("the data root ", data_root.string(), " cannot be written", here));
    return found;
  }
  const fs::space_info room = fs::space(data_root, error);
  const auto wanted = static_cast<uintmax_t>(static_cast<double>(model_bytes) * (kind == nullptr ? 0 : kind->room));
  if (!error && room.available < wanted) {
    refuse(v1::REFUSAL_KIND_ROOM,
           concat("the data root ", data_root.string(), " has ", room.available >> 20,
                  " MiB free; results and checkpoints of this job need about ", wanted >> 20, " MiB", here));
  }
  return found;
}

std::string text_of(const v1::Refusal& refusal) {
  std::string text;
  for (const std::string& problem : refusal.problems()) text += (text.empty() ? "" : "\n") + problem;
  return text;
}

}  // namespace moe
