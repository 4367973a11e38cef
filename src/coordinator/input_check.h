#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/problem.h"

/// Whether the models and data files that a pipeline names are there, as far as the coordinator can see: a mistyped
/// path is told at submit, not when a gang has its turn. Reads directories; call it without a lock.
namespace moe {

struct InputCheck {
  /// What is missing below the data root, which gangs see as the coordinator does: no gang will find it.
  Problems problems;
  /// What is missing elsewhere: a gang on another machine may have it.
  std::vector<std::string> warnings;
  /// What was looked for, as a sentence; empty if the pipeline names nothing.
  std::string told;
};

/// Whether an absolute path lies below the data root, which gangs see as the coordinator does.
bool is_below(const std::filesystem::path& path, const std::filesystem::path& data_root);

/// Whether this machine can tell that an input is missing, and not only that it does not see it: it has the folder in
/// which the input should be, with something in it (an empty one may be where storage is mounted elsewhere), or that is
/// below the data root.
bool is_missing_here(const std::filesystem::path& path, const std::filesystem::path& data_root);

InputCheck check_inputs(const v1::PipelineSpec& spec, const std::filesystem::path& data_root);

}  // namespace moe
