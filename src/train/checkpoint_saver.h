#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "comm/communicator.h"
#include "train/train_request.h"

namespace moe {

/// Saves the checkpoints of a training, one at a time: begun at a step, from copies, written by a thread beside the
/// steps after it, and committed when all ranks have written, at the latest when finish() is called, before the next
/// one and the end. What is not committed yet when a training is killed or fails is no checkpoint; it goes on from the
/// one before. One that cannot be written is survived, and the monitor told; two in a row throw StorageError. All ranks
/// call alike, after the same steps.
///
/// Destroyed, it gives up what is being written: it waits for the tensor at hand, not for the file. Only a write(2)
/// that the storage holds up holds it up too.
///
/// Cost     while a checkpoint is written, this rank's copies: of fp32 weights 12 bytes per weight that it writes. They
///          are taken in begin(), and freed one by one. The manifest is written, and old checkpoints are removed, where
///          one is committed: in a step, for which all ranks wait.
class CheckpointSaver {
 public:
  /// `write_before` writes what a checkpoint refers to; no collectives in it. What it throws is a checkpoint that could
  /// not be written.
  CheckpointSaver(const TrainRequest& request, Communicator& world, std::function<void()> write_before)
      : request_(request), world_(world), write_before_(std::move(write_before)) {}

  /// Of the state after `step`; nothing else may be begun. The tensors may change when it returns. False: it could not
  /// be begun.
  bool begin(int64_t step, const std::vector<TensorRange>& tensors, const nlohmann::json& scalars);
  /// After every step: commits what was begun if all ranks have written it.
  void poll();
  /// Commits what was begun, waiting for it. False: it could not be written.
  bool finish();
  /// Before a stop, which saves what is newer and shall not wait for two files: commits what was begun if all ranks
  /// have written it, else gives it up. False: it could not be written.
  bool settle();
  /// The same as begin() and finish(), without copies. False: it could not be written.
  bool save(int64_t step, const std::vector<TensorRange>& tensors, const nlohmann::json& scalars);

 private:
  /// Whether `work` succeeded in what saving the checkpoint of `step` needs.
  bool survives(int64_t step, const std::function<void()>& work);
  void saved(int64_t step);
  /// Of what was begun.
  bool is_written_by_all();

  const TrainRequest& request_;
  Communicator& world_;
  const std::function<void()> write_before_;
  std::unique_ptr<CheckpointSave> pending_;
  int64_t pending_step_ = 0;
  int failed_ = 0;  ///< in a row
};

}  // namespace moe
