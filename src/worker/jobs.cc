#include "worker/jobs.h"

#include "common/error.h"

namespace moe {

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

}  // namespace moe
