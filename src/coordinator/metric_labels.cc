#include "coordinator/metric_labels.h"

#include <google/protobuf/descriptor.h>

#include "coordinator/operation.h"
#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

/// Every method of a service, with OK, what an RPC ends with when its client went away, and the codes of the service's
/// comment.
void add_methods(const google::protobuf::ServiceDescriptor& service, const std::vector<std::string>& codes,
                 CoordinatorLabels& labels) {
  for (int i = 0; i < service.method_count(); ++i) labels.methods.push_back({service.method(i)->name(), codes});
}

}  // namespace

CoordinatorLabels metric_labels() {
  CoordinatorLabels labels;
  add_methods(
      *v1::SubmitRequest::descriptor()->file()->FindServiceByName("JobService"),
      {"OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"},
      labels);
  add_methods(*v1::HeartbeatRequest::descriptor()->file()->FindServiceByName("WorkerService"),
              {"OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED"},
              labels);
  labels.kinds = job_kinds().names();
  for (int state = v1::JOB_STATE_UNSPECIFIED + 1; v1::JobState_IsValid(state); ++state) {
    if (is_terminal(static_cast<v1::JobState>(state)))
      labels.outcomes.push_back(state_name(static_cast<v1::JobState>(state)));
  }
  labels.expiry_reasons = {std::begin(kLeaseLosses), std::end(kLeaseLosses)};
  labels.restart_reasons = labels.expiry_reasons;
  for (const char* reason : {kAttemptFailed, kInputsUnreadable, kNoRoom}) labels.restart_reasons.emplace_back(reason);
  return labels;
}

}  // namespace moe
