#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/v1/state.pb.h"

namespace moe {

/// Writes what a run leaves in its root: summary.json (the records of all finished stages and the gates), report.html
/// and metrics.jsonl (the training lines of all stages, each with its stage). Called by rank 0 of `moe-worker run` and
/// by the coordinator after every stage, so that the files are there while a long pipeline is still running; one caller
/// at a time per root. Each file is replaced atomically. Throws StorageError.
///
/// `state`       phase, reason and stages count; a HELD pipeline's reason is what its gate found.
/// `records`     the STAGE.json of every finished stage, in the order in which they finished.
/// `job_folder`  stage -> its job's folder, where attempts and outputs lie.
/// Returns the table for a terminal.
std::string write_run_summary(const std::filesystem::path& root, const v1::PipelineSpec& effective,
                              const v1::Pipeline& state, const std::vector<nlohmann::json>& records,
                              const std::function<std::filesystem::path(const std::string& stage)>& job_folder);

}  // namespace moe
