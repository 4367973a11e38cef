#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "checkpoint/checkpointer.h"
#include "comm/communicator.h"
#include "moe/v1/job.pb.h"

namespace moe {

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
};

/// What training leaves for gates and reports; the same on every rank.
struct TrainOutcome {
  std::map<std::string, double> metrics;
  nlohmann::json details;  ///< curve [[step, loss]], validation [{step, domains}], expert_load
  std::string history;     ///< empty, or the schedules before the one in force and until which step they held
};

/// Continual pre-training or supervised post-training, resuming from the newest checkpoint that `checkpoints` lets
/// count, if there is one. Bit for bit the same losses and weights whether it was interrupted or not, at the same
/// layout. With more steps than that checkpoint was made for, the learning rate follows the longer cosine from there
/// on, and the warm-up stays as it was begun. Collective. nullopt: stopped after a checkpoint. Before the first step
/// the ranks compare what they read (StorageError names the file that differs), at every checkpoint the weights that
/// several of them hold (HardwareError). A checkpoint that cannot be written is tried again at the next occasion;
/// StorageError after two in a row. Throws Diverged after three steps in a row without a finite loss or gradient.
std::optional<TrainOutcome> train(const TrainRequest& request, Communicator& world);

}  // namespace moe
