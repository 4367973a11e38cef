#include "worker/jobs.h"

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {
namespace {

/// All ranks leave the job, as asked; nothing is wrong.
class StopRequested : public Error {
 public:
  using Error::Error;
};

}  // namespace

const Registry<JobKind>& job_kinds() {
  static const Registry<JobKind> kinds("job kind", {
                                                       {"convert", run_convert_job},
                                                       {"train", run_train_job},
                                                       {"evaluate", run_evaluate_job},
                                                   });
  return kinds;
}

std::string job_kind_of(const v1::Stage& stage) {
  const auto* field = stage.GetReflection()->GetOneofFieldDescriptor(stage, stage.GetDescriptor()->FindOneofByName("kind"));
  MOE_CHECK(field != nullptr, "stage '", stage.name(), "' has no kind");
  return field->name();
}

std::optional<JobOutcome> run_job(const JobContext& context) {
  try {
    return job_kinds().at(job_kind_of(context.stage))(context);
  } catch (const StopRequested&) {
    return std::nullopt;
  }
}

void end_of_unit(const JobContext& context, const ProgressUpdate& update) {
  context.progress(update);
  at::Tensor votes = at::full({1}, context.should_stop && context.should_stop() ? 1 : 0, at::kLong);
  context.world.all_reduce_sum(votes, "stop votes");
  if (votes.item<int64_t>() > 0) throw_agreed<StopRequested>("stopped between two units of work, as asked");
}

}  // namespace moe
