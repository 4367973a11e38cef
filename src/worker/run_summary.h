#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/advance.h"

namespace moe {

/// Writes what a run leaves in its root: summary.json (the records of all finished stages and the gates), report.html and
/// metrics.jsonl (the training lines of all stages, each with its stage). Returns the table for the terminal. Called by rank 0
/// after every stage, so that the files are there while a long pipeline is still running.
std::string write_run_summary(const std::filesystem::path& root, const v1::PipelineSpec& effective, const PipelineState& state,
                              const std::vector<nlohmann::json>& records);

}  // namespace moe
