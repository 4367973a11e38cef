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

constexpr char kFolder[] = "reconstruction";

}  // namespace

std::filesystem::path kept_layers_of(const JobContext& context) {
  const std::string since = context.first_attempt > 0 ? concat("-since-t", context.first_attempt) : "";
  return context.job_path / kFolder / (digest_of(context.configuration) + since);
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

void forget_kept_layers(const JobContext& context) {
  agree(context.world, "forget reconstructed layers", [&] {
    if (context.world.rank() != 0) return;
    const std::filesystem::path kept = kept_layers_of(context);
    std::error_code failed, ignored;
    std::filesystem::remove_all(kept, failed);
    if (failed) {
      log_warning(concat("event=kept_layers_left path=", kept.string(), " reason=\"", failed.message(),
                         "\"; they may be removed by hand"));
    }
    std::filesystem::remove(kept.parent_path(), ignored);  // unless there are some of another configuration
  });
}

}  // namespace moe
