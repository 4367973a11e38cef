#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/checkpointer.h"
#include "common/work_monitor.h"
#include "moe/v1/job.pb.h"
#include "train/recipes.h"

namespace moe {

/// What train() is asked for; the same on every rank.
struct TrainRequest {
  const v1::TrainSpec& spec;  ///< effective
  const v1::GangSpec& gang;
  uint64_t seed = 0;
  std::filesystem::path model;         ///< dense or MoE model directory to start from
  std::filesystem::path job_path;      ///< checkpoints/ and attempts/ lie here
  std::filesystem::path attempt_path;  ///< metrics.jsonl of this attempt
  std::filesystem::path output;        ///< trained model; must not exist
  int attempt = 1;
  nlohmann::json configuration;  ///< {"config": .., "inputs": ..}: recorded with each checkpoint

  CheckpointAuthority checkpoints = {};
  WorkMonitor& monitor;
  RecipeMaker recipe = recipes().at(kDefaultRecipe);

  std::filesystem::path checkpoints_path() const { return job_path / "checkpoints"; }
};

}  // namespace moe
