#include "worker/jobs.h"

#include "common/utc_time.h"
#include "pipeline/configuration.h"
#include "pipeline/spec.h"
#include "worker/job_monitor.h"

namespace moe {

// One file each: convert_job.cc, train_job.cc, evaluate_job.cc, export_job.cc, analyze_job.cc.
std::optional<JobOutcome> run_convert_job(const JobContext& context);
std::optional<JobOutcome> run_train_job(const JobContext& context);
std::optional<JobOutcome> run_evaluate_job(const JobContext& context);
std::optional<JobOutcome> run_export_job(const JobContext& context);
std::optional<JobOutcome> run_analyze_job(const JobContext& context);

const Registry<JobRunner>& job_runners() {
  static const Registry<JobRunner> runners("job kind", {
                                                           {"convert", run_convert_job},
                                                           {"train", run_train_job},
                                                           {"evaluate", run_evaluate_job},
                                                           {"export", run_export_job},
                                                           {"analyze", run_analyze_job},
                                                       });
  return runners;
}

std::optional<JobOutcome> run_job(const JobContext& context) {
  try {
    return job_runners().at(stage_kind(context.stage))(context);
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
