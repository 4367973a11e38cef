#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/checkpointer.h"
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

  struct Progress {
    int64_t step = 0;
    int64_t steps = 0;
    double loss = 0;
    double tokens_per_second = 0;
  };
  std::function<void(const Progress&)> progress;
  /// Asked on every rank after every step; if any says yes, all save and leave.
  std::function<bool()> should_stop = {};
  /// Every line of metrics.jsonl as it is written; on every rank. May be empty.
  std::function<void(const nlohmann::json& line)> on_line = {};
  CheckpointAuthority checkpoints = {};
  /// Called on every rank with path -> XXH3-128 of the data files as they were read, which is the same on all ranks,
  /// before the first step. May throw on all of them: nothing is written then.
  std::function<void(const std::map<std::string, std::string>& digests)> on_data_read = {};
  /// A checkpoint could not be written; on every rank. Training goes on, and the one before stays the one to resume
  /// from.
  std::function<void()> on_failed_save = {};
  RecipeMaker recipe = recipes().at(kDefaultRecipe);

  std::filesystem::path checkpoints_path() const { return job_path / "checkpoints"; }
};

}  // namespace moe
