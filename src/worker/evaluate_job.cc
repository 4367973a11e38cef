#include "checkpoint/model_directory.h"
#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "eval/eval_tasks.h"
#include "eval/evaluator.h"
#include "model/model_config.h"
#include "worker/jobs.h"
#include "worker/row_length_check.h"

namespace moe {
namespace {

using nlohmann::json;

/// As it was measured: with another top_k than its own, or a choice that is not its routers', it says so.
json describe_model(const std::filesystem::path& path, const v1::EvaluateSpec& spec) {
  ModelDirectory directory(path);
  const ModelConfig& config = directory.config();
  const int64_t own = config.moe ? config.moe->top_k : 0;
  if (spec.top_k() > 0) directory.use_top_k(spec.top_k());
  const ParameterCount parameters = count_parameters(config);
  json model = {{"path", path.string()},
                {"parameters_total", parameters.total},
                {"parameters_active", parameters.active},
                {"experts", config.moe ? config.moe->num_experts : 0},
                {"top_k", config.moe ? config.moe->top_k : 0}};
  std::string manner = spec.top_k() > 0 && spec.top_k() != own ? concat("top-", spec.top_k()) : "";
  if (spec.has_routing() && spec.routing() != "router")
    manner += concat(manner.empty() ? "" : ", ", spec.routing(), " experts");
  if (!manner.empty()) model["measured_with"] = manner;
  return model;
}

void add_number(const std::string& name, const json& value, Metrics& metrics) {
  if (value.is_number()) metrics[name] = value.get<double>();
}

void add_domains(const std::string& prefix, const json& result, Metrics& metrics) {
  const json domains = result.value("domains", json::object());
  for (const auto& [domain, values] : domains.items()) {
    for (const auto& [name, value] : values.items()) add_number(prefix + name + "." + domain, value, metrics);
  }
}

/// {"tasks": {"perplexity": {"loss": .., "domains": {"code": {"loss": ..}}}}} -> loss, loss.code, ...
Metrics flat_metrics(const json& evaluation) {
  Metrics metrics;
  for (const auto& [task, result] : evaluation["tasks"].items()) {
    for (const auto& [name, value] : result.items()) add_number(name, value, metrics);
    add_domains("", result, metrics);
    if (!evaluation.contains("baseline")) continue;
    const json& baseline = evaluation["baseline"]["tasks"][task];
    const std::string& compared = eval_tasks().at(task).main_measure;
    add_number("baseline_" + compared, baseline.value(compared, json()), metrics);
    add_domains("baseline_", baseline, metrics);
  }
  return metrics;
}

std::optional<JobOutcome> run_evaluate_job(const JobContext& context) {
  const v1::EvaluateSpec& spec = context.stage.evaluate();
  const std::filesystem::path model = context.model_path(spec.input());
  std::optional<std::filesystem::path> baseline;
  if (spec.has_baseline()) baseline = context.model_path(spec.baseline());
  const EvaluateRequest request{.spec = spec,
                                .gang = context.stage.gang(),
                                .seed = context.stage.seed(),
                                .model = model,
                                .baseline = baseline,
                                .monitor = context.monitor};
  json result = evaluate(request, context.world);
  agree(context.world, "write evaluation", [&] {
    if (context.world.rank() != 0) return;
    result["model"] = describe_model(model, spec);
    if (baseline) result["baseline"]["model"] = describe_model(*baseline, {});
    PendingDirectory output(context.output_path);
    write_file_atomically(output.folder() / "evaluation.json", result.dump(1) + "\n");
    output.commit();
  });
  return JobOutcome{flat_metrics(result), result};
}

void check_evaluate_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  const v1::EvaluateSpec& spec = stage.evaluate();
  check_row_length(stage, spec.sequence_length(), models, checks);
  const OpenedModel* const model = models.before_training(spec.input());
  if (!spec.has_top_k() || model == nullptr) return;
  try {
    ModelDirectory(model->directory).use_top_k(spec.top_k());
  } catch (const InvalidArgument& error) {
    checks.add("top_k", error.what());
  }
}

}  // namespace

JobRunner evaluate_runner() {
  return {.run = run_evaluate_job, .check_models = check_evaluate_models};
}

}  // namespace moe
