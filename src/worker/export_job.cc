#include "common/log.h"
#include "export/export_report.h"
#include "export/exporter.h"
#include "runtime/opened_model.h"
#include "worker/job_context.h"

namespace moe {

std::optional<JobOutcome> run_export_job(const JobContext& context) {
  const std::filesystem::path input = context.model_path(context.stage.export_().input());
  const OpenedModel source = open_model(input, {}, context.world);
  const ExportRequest request{.spec = context.stage.export_(),
                              .source = source.directory,
                              .output = context.output_path,
                              .monitor = context.monitor};
  const nlohmann::json report = export_model(request, context.world);
  if (context.world.rank() == 0)
    log_info("event=exported output=" + context.output_path.string() + "\n" + export_text(report));
  JobOutcome outcome;
  for (const char* metric : {"bytes", "shards", "padded_size_ratio", "max_relative_rounding"})
    outcome.metrics[metric] = report[metric];
  outcome.details = {{"export", report}};
  return outcome;
}

}  // namespace moe
