#include "worker/job_monitor.h"

#include "comm/agreement.h"
#include "worker/stage_inputs.h"

namespace moe {

void JobMonitor::data_read(const std::map<std::string, std::string>& digests) {
  require_recorded(configuration_, digests);
}

void JobMonitor::unit_done(const WorkProgress& progress) {
  show({.stage = configuration_.stage.name(),
        .phase = progress.phase,
        .step = progress.done,
        .steps = progress.all,
        .unit = progress.unit});
  if (any_rank(world_, "stop votes", should_stop()))
    throw_agreed<StopRequested>("stopped between two units of work, as asked");
}

void JobMonitor::record(const StepRecord& record) {
  show({.stage = configuration_.stage.name(),
        .phase = "training",
        .step = record.step,
        .steps = record.steps,
        .unit = "step",
        .loss = record.loss,
        .tokens_per_second = record.tokens_per_second()});
}

}  // namespace moe
