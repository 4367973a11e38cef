#include "train/checkpoint_saver.h"

#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"

namespace moe {
namespace {

constexpr int kMaxFailed = 2;

}  // namespace

bool CheckpointSaver::begin(int64_t step, const std::vector<TensorRange>& tensors, const nlohmann::json& scalars) {
  MOE_CHECK(!pending_, "the checkpoint of step ", pending_step_, " is not finished");
  return survives(step, [&] {
    agree(world_, "write metrics", write_before_);
    pending_ = std::make_unique<CheckpointSave>(request_.checkpoints_path(), step, request_.attempt, tensors, scalars,
                                                world_, SnapshotOf::kCopies);
    pending_step_ = step;
    pending_->write_beside();
  });
}

bool CheckpointSaver::is_written_by_all() {
  return !any_rank(world_, "checkpoint written", !pending_->is_written());
}

void CheckpointSaver::poll() {
  if (pending_ && is_written_by_all()) finish();
}

bool CheckpointSaver::settle() {
  if (!pending_ || is_written_by_all()) return finish();
  const std::unique_ptr<CheckpointSave> save = std::move(pending_);
  save->give_up();
  if (world_.rank() == 0) log_info(concat("event=checkpoint_given_up step=", pending_step_));
  return true;
}

bool CheckpointSaver::finish() {
  if (!pending_) return true;
  const std::unique_ptr<CheckpointSave> save = std::move(pending_);
  const int64_t step = pending_step_;
  if (!survives(step, [&] { save->commit(request_.spec.keep_checkpoints(), request_.checkpoints); })) return false;
  saved(step);
  return true;
}

bool CheckpointSaver::save(int64_t step, const std::vector<TensorRange>& tensors, const nlohmann::json& scalars) {
  MOE_CHECK(!pending_, "the checkpoint of step ", pending_step_, " is not finished");
  const bool is_saved = survives(step, [&] {
    agree(world_, "write metrics", write_before_);
    save_checkpoint(request_.checkpoints_path(), step, request_.attempt, tensors, scalars, world_,
                    request_.spec.keep_checkpoints(), request_.checkpoints);
  });
  if (is_saved) saved(step);
  return is_saved;
}

void CheckpointSaver::saved(int64_t step) {
  failed_ = 0;
  if (world_.rank() == 0) log_info(concat("event=checkpoint_saved step=", step));
}

bool CheckpointSaver::survives(int64_t step, const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const StorageError& error) {
    if (dynamic_cast<const AgreedError*>(&error) == nullptr) throw;
    request_.monitor.save_failed();
    if (++failed_ == kMaxFailed) {
      throw_agreed<StorageError>(concat(kMaxFailed,
                                        " checkpoints in a row could not be written, the last one after step ", step,
                                        ": ", error.what()));
    }
    if (world_.rank() == 0) {
      log_warning(concat("event=checkpoint_failed step=", step, " reason=\"", error.what(),
                         "\"; training goes on, the next checkpoint is tried when it is due, and the one before "
                         "stays the one to resume from"));
    }
    return false;
  }
}

}  // namespace moe
