#include "common/error.h"
#include "common/log.h"
#include "export/export_plan.h"
#include "export/export_report.h"
#include "export/exporter.h"
#include "runtime/opened_model.h"
#include "worker/jobs.h"

namespace moe {
namespace {

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

void check_export_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  const OpenedModel* const source = models.model(stage.export_().input());
  if (source == nullptr) return;
  try {
    plan_export(source->directory, stage.export_());
  } catch (const InvalidArgument& error) {
    checks.add("format", error.what());
  }
}

}  // namespace

JobRunner export_runner() {
  return {.run = run_export_job, .check_models = check_export_models};
}

}  // namespace moe
