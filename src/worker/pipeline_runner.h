#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "comm/communicator.h"
#include "common/exit_code.h"
#include "moe/v1/pipeline.pb.h"

namespace moe {

struct RunSettings {
  std::filesystem::path root;  ///< everything is written below
  std::set<std::string> approved_gates;
  bool fresh = false;    ///< run finished stages again, and training from step 1; nothing is deleted
  std::string launcher;  ///< who starts the same command again when it ended; empty: nobody. Its `fresh` counts once
};

/// Runs a checked pipeline: the engine of src/pipeline says what comes next, files hold the results. Collective: every
/// rank of `world` calls it with the same arguments. Leaves summary.json, report.html and metrics.jsonl in the root;
/// prints the closing table from rank 0. Returns kDone, kGate (a gate holds or failed) or kReleased (stopped by SIGUSR1
/// after a checkpoint). Throws what a stage threw, after writing the summary.
ExitCode run_pipeline(const v1::PipelineSpec& effective, const RunSettings& settings, Communicator& world);

}  // namespace moe
