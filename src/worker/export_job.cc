#include "common/error.h"
#include "common/log.h"
#include "export/export_plan.h"
#include "export/exporter.h"
#include "runtime/opened_model.h"
#include "worker/jobs.h"

namespace moe {
namespace {

/// A record for each thing to know; export.json has the whole.
void log_export(const std::filesystem::path& output, const nlohmann::json& report) {
  log_info(concat("event=exported format=", report["format"].get<std::string>(), " output=", output.string()));
  for (const nlohmann::json& note : report["notes"])
    log_info(concat("event=export_note note=\"", note.get<std::string>(), "\""));
  for (const nlohmann::json& warning : report["warnings"])
    log_warning(concat("event=export_inexact reason=\"", warning.get<std::string>(), "\""));
}

std::optional<JobOutcome> run_export_job(const JobContext& context) {
  const std::filesystem::path input = context.model_path(context.stage.export_().input());
  const OpenedModel source = open_model(input, {}, context.world);
  const ExportRequest request{.spec = context.stage.export_(),
                              .source = source.directory,
                              .output = context.output_path,
                              .monitor = context.monitor};
  const nlohmann::json report = export_model(request, context.world);
  if (context.world.rank() == 0) log_export(context.output_path, report);
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
