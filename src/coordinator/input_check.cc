#include "coordinator/input_check.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

struct Fault {
  std::string text;      ///< empty if there is none
  bool is_ours = false;  ///< a right that the coordinator's user lacks; the gangs' may have it
};

Fault fault_of(const fs::path& path, bool is_model) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    return {is_model ? "there is no such folder" : "there is no such file"};
  if (status.type() == fs::file_type::none) return {concat("it cannot be looked at (", error.message(), ")"), true};
  if (is_model) {
    const fs::file_type config = fs::status(path / "config.json", error).type();
    if (config == fs::file_type::none)
      return {concat("its config.json cannot be looked at (", error.message(), ")"), true};
    return {config == fs::file_type::regular ? "" : "it is not a model directory: config.json is missing"};
  }
  if (!fs::is_regular_file(status)) return {"it is not a file"};
  if (::access(path.c_str(), R_OK) != 0) return {"it cannot be read", true};
  return {};
}

class Checker {
 public:
  Checker(const v1::PipelineSpec& spec, const fs::path& data_root)
      : spec_(spec), data_root_(fs::absolute(data_root).lexically_normal()) {}

  void stage(const v1::Stage& stage) {
    const std::string section = spec_.kind() == "Job" ? "" : concat("stages.", stage_name(stage));
    for (const StageInput& input : inputs_of(stage)) {
      const std::string field = join_path(section, input.field);
      if (input.is_model) {
        model(input.value, field);
      } else {
        look(input.value, field, false);
      }
    }
  }

  InputCheck take() {
    if (seen_.empty()) return {};
    check_.told = concat("the coordinator looked for the ", seen_.size(),
                         seen_.size() == 1 ? " model or data file" : " models and data files",
                         " that it names: ", found_, found_ == 1 ? " is there" : " are there",
                         relative_ == 0 ? "" : concat(", ", relative_, " with a relative path cannot be told"));
    return std::move(check_);
  }

 private:
  void model(const std::string& reference, const std::string& field) {
    if (const auto input = spec_.inputs().find(reference); input != spec_.inputs().end()) {
      look(input->second.path(), concat("inputs.", reference, ".path"), true);
    } else if (reference.find('/') != std::string::npos) {
      look(reference, field, true);
    }
  }

  void look(const std::string& written, const std::string& field, bool is_model) {
    if (written.empty() || !seen_.insert(written).second) return;
    const fs::path path = fs::path(written).lexically_normal();
    if (path.is_relative()) {
      ++relative_;
      return;
    }
    const Fault fault = fault_of(path, is_model);
    if (fault.text.empty()) {
      ++found_;
      return;
    }
    if (!is_below(path, data_root_)) {
      check_.warnings.push_back(concat(field, ": ", fault.text, " (", written, ") on ", host_name(),
                                       ", where the coordinator looked; it is not below the data root ",
                                       data_root_.string(), ", so gangs elsewhere may have it"));
    } else if (fault.is_ours) {
      check_.warnings.push_back(concat(field, ": ", fault.text, " (", written,
                                       ") by the coordinator; gangs that run as another user may be able to"));
    } else {
      check_.problems.push_back(
          {"", field,
           concat(fault.text, " (", written, "): the coordinator looked, and gangs share its data root ",
                  data_root_.string())});
    }
  }

  const v1::PipelineSpec& spec_;
  const fs::path data_root_;
  std::set<std::string> seen_;
  int found_ = 0, relative_ = 0;
  InputCheck check_;
};

}  // namespace

bool is_below(const fs::path& path, const fs::path& data_root) {
  const fs::path below = path.lexically_normal().lexically_relative(data_root);
  return !below.empty() && *below.begin() != "..";
}

bool is_missing_here(const fs::path& path, const fs::path& data_root) {
  std::error_code error;
  if (fs::status(path, error).type() != fs::file_type::not_found) return false;
  if (is_below(path, data_root)) return true;
  fs::path folder = path.parent_path();
  // A model is looked for by its config.json; what is missing may be its whole directory.
  if (path.filename() == "config.json" && !fs::exists(folder, error)) folder = folder.parent_path();
  return fs::is_directory(folder, error) && !fs::is_empty(folder, error) && !error;
}

InputCheck check_inputs(const v1::PipelineSpec& spec, const fs::path& data_root) {
  Checker checker(spec, data_root);
  for (const v1::Stage& stage : spec.stages()) checker.stage(stage);
  return checker.take();
}

}  // namespace moe
