#include "worker/reconstruction_tasks.h"

#include <string>
#include <system_error>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"
#include "pipeline/configuration.h"
#include "train/layer_training.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr char kFolder[] = "reconstruction";
/// Beside the folder, and never removed: a gang could lock a file that is gone.
constexpr char kLock[] = "reconstruction.lock";

/// Of this configuration.
fs::path shared_folder(const JobContext& context) {
  const std::string since = context.first_attempt > 0 ? concat("-since-t", context.first_attempt) : "";
  return context.job_path / kFolder / (digest_of(context.configuration) + since);
}

/// Null where the file system has no locks. Throws InvalidArgument if another gang holds it.
std::unique_ptr<FileLock> lock_of(const JobContext& context) {
  try {
    make_directories(context.job_path);
    return std::make_unique<FileLock>(context.job_path / kLock);
  } catch (const StorageError& error) {
    log_warning(concat("event=kept_layers_not_locked reason=\"", error.what(),
                       "\"; nothing keeps another gang of this job away from ", shared_folder(context).string()));
    return nullptr;
  }
}

}  // namespace

KeptLayers::KeptLayers(const JobContext& context) : context_(context) {
  folder_ = agree_on_result(context.world, "folder of reconstructed layers", [&] {
    fs::path folder = shared_folder(context);
    try {
      lock_ = lock_of(context);
    } catch (const InvalidArgument&) {
      folder += concat("-t", context.attempt);
      log_warning(concat("event=kept_layers_in_use reason=\"another gang of this job holds ",
                         (context.job_path / kLock).string(), "\"; this attempt trains all layers, in ",
                         folder.string()));
    }
    return folder.string();
  });
}

void KeptLayers::forget() const {
  agree(context_.world, "forget reconstructed layers", [&] {
    if (context_.world.rank() != 0) return;
    std::error_code failed, ignored;
    fs::remove_all(folder_, failed);
    if (failed) {
      log_warning(concat("event=kept_layers_left path=", folder_.string(), " reason=\"", failed.message(),
                         "\"; they may be removed by hand"));
    }
    fs::remove(folder_.parent_path(), ignored);  // unless there are some of another configuration
  });
}

bool train_task(const LayerTask& task, const JobContext& context) {
  const v1::ReconstructionSpec& spec = context.stage.convert().reconstruction();
  return train_layer({.config = task.config,
                      .layer = task.layer,
                      .parameters = task.parameters,
                      .is_trained = task.is_trained,
                      .inputs_TD = task.inputs_TD,
                      .wanted_TD = task.wanted_TD,
                      .steps = spec.steps(),
                      .learning_rate = spec.learning_rate(),
                      .batch_tokens = spec.batch_tokens(),
                      .seed = context.stage.seed(),
                      .should_stop = [&context] { return context.monitor.should_stop(); }});
}

}  // namespace moe
