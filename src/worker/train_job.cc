#include "common/error.h"
#include "train/router_problems.h"
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

void check_train_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  const v1::TrainSpec& spec = stage.train();
  check_row_length(stage, spec.sequence_length(), models, checks);
  const OpenedModel* const model = models.before_training(spec.input());
  if (model == nullptr) return;
  for (const RouterProblem& problem : router_problems(spec, model->directory.config()))
    checks.add(problem.field, concat(problem.message, " (", model->directory.path().string(), ")"));
}

}  // namespace

JobRunner train_runner() {
  return {.run = run_train_job, .check_models = check_train_models};
}

}  // namespace moe
