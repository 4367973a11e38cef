#include "worker/jobs.h"

#include "comm/device_errors.h"
#include "common/utc_time.h"
#include "pipeline/configuration.h"
#include "pipeline/spec.h"
#include "worker/job_monitor.h"

namespace moe {

// One file each: convert_job.cc, train_job.cc, evaluate_job.cc, export_job.cc, analyze_job.cc.
JobRunner convert_runner();
JobRunner train_runner();
JobRunner evaluate_runner();
JobRunner export_runner();
JobRunner analyze_runner();

const Registry<JobRunner>& job_runners() {
  static const Registry<JobRunner> runners("job kind", {
                                                           {"convert", convert_runner()},
                                                           {"train", train_runner()},
                                                           {"evaluate", evaluate_runner()},
                                                           {"export", export_runner()},
                                                           {"analyze", analyze_runner()},
                                                       });
  return runners;
}

std::optional<JobOutcome> run_job(const JobContext& context) {
  try {
    std::optional<JobOutcome> outcome;
    with_device_errors([&] { outcome = job_runners().at(stage_kind(context.stage)).run(context); });
    return outcome;
  } catch (const StopRequested&) {
    return std::nullopt;
  }
}

nlohmann::json record_of(const JobContext& context, const JobOutcome& outcome, double seconds) {
  nlohmann::json record = {{"digest", digest_of(context.configuration, outcome.history)},
                           {"stage", context.stage.name()},
                           {"kind", stage_kind(context.stage)},
                           {"attempt", context.attempt},
                           {"seconds", seconds},
                           {"finished_at", utc_now()},
                           {"ranks", context.world.size()},
                           {"metrics", outcome.metrics},
                           {"details", outcome.details}};
  record.update(to_json(context.configuration));
  if (!outcome.history.empty()) record["history"] = outcome.history;
  return record;
}

}  // namespace moe
