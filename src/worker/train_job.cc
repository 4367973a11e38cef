#include "train/trainer.h"
#include "worker/job_context.h"
#include "worker/stage_inputs.h"

namespace moe {
namespace {

/// Tells whoever runs the job what its training tells.
class JobMonitor final : public TrainMonitor {
 public:
  explicit JobMonitor(const JobContext& context) : context_(context) {}

  void data_read(const std::map<std::string, std::string>& digests) override {
    require_recorded(context_.configuration, digests);
  }
  void record(const StepRecord& record) override {
    if (context_.on_step) context_.on_step(record);
    context_.progress({.stage = context_.stage.name(),
                       .phase = "training",
                       .step = record.step,
                       .steps = record.steps,
                       .unit = "step",
                       .loss = record.loss,
                       .tokens_per_second = record.tokens_per_second()});
  }
  bool should_stop() override { return context_.should_stop && context_.should_stop(); }
  void save_failed() override {
    if (context_.on_failed_save) context_.on_failed_save();
  }

 private:
  const JobContext& context_;
};

}  // namespace

std::optional<JobOutcome> run_train_job(const JobContext& context) {
  JobMonitor monitor(context);
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
                             .monitor = monitor};
  const std::optional<TrainOutcome> trained = train(request, context.world);
  if (!trained) return std::nullopt;
  return JobOutcome{trained->metrics, trained->details, trained->history};
}

}  // namespace moe
