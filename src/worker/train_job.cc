#include <optional>
#include <string>

#include "common/error.h"
#include "model/model_config.h"
#include "train/trainer.h"
#include "worker/jobs.h"
#include "worker/row_length_check.h"

namespace moe {
namespace {

std::optional<JobOutcome> run_train_job(const JobContext& context) {
  const TrainRequest request{.spec = context.stage.train(),
                             .gang = context.stage.gang(),
                             .seed = context.stage.seed(),
                             .model = context.model_path(context.stage.train().input()),
                             .job_path = context.job_path,
                             .attempt_path = context.attempt_path,
                             .output = context.output_path,
                             .attempt = context.attempt,
                             .configuration = to_json(context.configuration),
                             .checkpoints = context.checkpoints,
                             .monitor = context.monitor};
  const std::optional<TrainOutcome> trained = train(request, context.world);
  if (!trained) return std::nullopt;
  return JobOutcome{trained->metrics, trained->details, trained->history};
}

/// What the recipe refuses when it starts (check_routers() in train/recipes/language_model.cc), all of it at once.
void check_routers_of(const OpenedModel& model, const v1::TrainSpec& spec, const FieldChecks& checks) {
  const std::optional<MoeConfig>& moe = model.directory.config().moe;
  const std::string where = concat(" (", model.directory.path().string(), ")");
  if (!moe && spec.routing() != "router") {
    checks.add("routing", concat("routing '", spec.routing(),
                                 "' chooses experts, and this model has none: it is dense; remove it", where));
  }
  const std::string capacity = concat("capacity_factor ", spec.capacity_factor());
  if (spec.capacity_factor() > 0 && (!moe || moe->num_experts == 0)) {
    checks.add("capacity_factor", concat(capacity,
                                         " is of feed-forward experts, and this model has none: its feed-forward "
                                         "layers are dense; remove it",
                                         where));
  } else if (spec.capacity_factor() > 0 && moe->top_k != 1) {
    checks.add("capacity_factor", concat(capacity, " is of models with top_k 1, and this one has top_k ", moe->top_k,
                                         ", whose experts take every token; remove it", where));
  }
  const bool has_bias = moe && (moe->has_selection_bias || (moe->attention && moe->attention->has_selection_bias));
  if (spec.balance() == "importance_load" && has_bias) {
    checks.add("balance", concat("balance importance_load measures the load by the routers' logits, and this model's "
                                 "routers choose by selection biases besides; train it with balance selection_bias, "
                                 "quantile or auxiliary",
                                 where));
  }
}

void check_train_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  const v1::TrainSpec& spec = stage.train();
  check_row_length(stage, spec.sequence_length(), models, checks);
  if (const OpenedModel* const model = models.before_training(spec.input()); model != nullptr)
    check_routers_of(*model, spec, checks);
}

}  // namespace

JobRunner train_runner() {
  return {.run = run_train_job, .check_models = check_train_models};
}

}  // namespace moe
