#include "train/trainer.h"
#include "worker/jobs.h"
#include "worker/stage_inputs.h"

namespace moe {

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
                             .progress =
                                 [&](const TrainRequest::Progress& at) {
                                   context.progress({.stage = context.stage.name(),
                                                     .phase = "training",
                                                     .step = at.step,
                                                     .steps = at.steps,
                                                     .unit = "step",
                                                     .loss = at.loss,
                                                     .tokens_per_second = at.tokens_per_second});
                                 },
                             .should_stop = context.should_stop,
                             .on_line = context.on_metrics,
                             .checkpoints = context.checkpoints,
                             .on_data_read = [&](const auto& read) { require_recorded(context.configuration, read); },
                             .on_failed_save = context.on_failed_save};
  const std::optional<TrainOutcome> trained = train(request, context.world);
  if (!trained) return std::nullopt;
  return JobOutcome{trained->metrics, trained->details, trained->history};
}

}  // namespace moe
