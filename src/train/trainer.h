#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "train/train_request.h"

namespace moe {

/// What training leaves for gates and reports; the same on every rank.
struct TrainOutcome {
  std::map<std::string, double> metrics;
  nlohmann::json details;  ///< curve [[step, loss]] and what the recipe's summary adds
  std::string history;     ///< empty, or the schedules before the one in force and until which step they held
};

/// The loop under every recipe (recipe.h), resuming from the newest checkpoint that `checkpoints` lets count, if there
/// is one. Bit for bit the same losses and weights whether it was interrupted or not, at the same layout. With more
/// steps than that checkpoint was made for, the learning rate follows the longer cosine from there on, and the warm-up
/// stays as it was begun. Collective. nullopt: stopped after a checkpoint. Before the first step the ranks compare what
/// they read (StorageError names the file that differs), at every checkpoint the weights that several of them hold
/// (HardwareError). Checkpoints are written beside the steps after them (checkpoint_saver.h); one that cannot be is
/// tried again at the next occasion; StorageError after two in a row. Throws Diverged after three steps in a row
/// without a finite loss or gradient.
std::optional<TrainOutcome> train(const TrainRequest& request, Communicator& world);

}  // namespace moe
