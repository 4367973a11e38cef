#include "train/trainer.h"
#include "worker/job_context.h"

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
                             .checkpoints = context.checkpoints,
                             .monitor = context.monitor};
  const std::optional<TrainOutcome> trained = train(request, context.world);
  if (!trained) return std::nullopt;
  return JobOutcome{trained->metrics, trained->details, trained->history};
}

}  // namespace moe
