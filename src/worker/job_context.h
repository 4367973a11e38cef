#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "comm/communicator.h"
#include "common/work_monitor.h"
#include "moe/v1/pipeline.pb.h"
#include "pipeline/configuration.h"
#include "pipeline/gate.h"

namespace moe {

/// What a job may use. The same on every rank; all paths are on storage that all ranks see.
struct JobContext {
  const v1::Stage& stage;              ///< effective: every default that does not depend on the model is filled in
  std::filesystem::path job_path;      ///< checkpoints/ lies here and outlives attempts
  std::filesystem::path attempt_path;  ///< metrics.jsonl of this attempt
  std::filesystem::path output_path;   ///< does not exist yet; the job makes it, whole, as its last act
  /// Where calibrations are kept for later conversions (convert/calibration_store.h): the same for all jobs of a root.
  std::filesystem::path calibrations_path{};
  std::vector<std::string> evaluation_files{};  ///< that the pipeline measures models on (pipeline/inputs.h)
  int attempt = 1;
  int first_attempt = 0;        ///< of this work: what attempts before it kept is another's (--fresh)
  Configuration configuration;  ///< the stage and what its inputs hold; recorded with every result and checkpoint
  std::function<std::filesystem::path(const std::string& reference)>
      model_path;  ///< "dense", "convert.model", a folder
  Communicator& world;
  WorkMonitor& monitor;  ///< told of every unit of work; ends the job between two of them
  CheckpointAuthority checkpoints;
};

/// What a finished job leaves for gates and reports.
struct JobOutcome {
  Metrics metrics;
  nlohmann::json details = nlohmann::json::object();  ///< loss curve, expert load, scales, per-domain losses
  std::string history = {};  ///< as digest_of() takes it: how the result differs from a run without a break
};

}  // namespace moe
