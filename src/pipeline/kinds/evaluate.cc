#include <algorithm>
#include <string>
#include <vector>

#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

/// evaluate: held-out loss and perplexity by domain, beside a baseline's.
namespace moe {
namespace {

v1::EvaluateSpec filled_evaluate(const v1::EvaluateSpec& evaluate) {
  v1::EvaluateSpec filled = evaluate;
  fill_sources(*filled.mutable_data());
  if (filled.tasks().empty()) filled.add_tasks("perplexity");
  if (!filled.has_max_tokens()) filled.set_max_tokens(0);
  if (!filled.has_append_eos()) filled.set_append_eos(true);
  if (!filled.has_routing()) filled.set_routing("router");
  return filled;
}

void check_evaluate(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::EvaluateSpec& evaluate = stage.evaluate();
  if (evaluate.data().empty()) checks.add("data", "missing; list at least one JSONL file: [{path: FILE.jsonl}]");
  checks.sources("data", evaluate.data(), true);
  for (int i = 0; i < evaluate.tasks_size(); ++i) checks.known(concat("tasks.", i), evaluate.tasks(i), "tasks");
  checks.at_least("sequence_length", evaluate.has_sequence_length(), evaluate.sequence_length(), 2);
  checks.at_least<int64_t>("max_tokens", evaluate.has_max_tokens(), evaluate.max_tokens(), 0);
  checks.known("template", evaluate.template_(), "templates");
  checks.at_least("top_k", evaluate.has_top_k(), evaluate.top_k(), 1);
  checks.choice("routing", evaluate.has_routing(), evaluate.routing(), {"router", "random", "first"});
}

/// The evaluation would refuse the model, which takes until it is there.
std::vector<std::string> top_k_warning(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  const int top_k = stage.evaluate().top_k();
  const auto conversion =
      std::find_if(origins.begin(), origins.end(), [](const v1::Stage& origin) { return origin.has_convert(); });
  if (top_k == 0 || conversion == origins.end()) return {};
  const int experts = conversion->convert().has_ffn() ? conversion->convert().ffn().experts() : 0;
  if (top_k <= experts) return {};
  return {concat("top_k ", top_k, " is more than the ", experts, " feed-forward experts that stage ",
                 stage_name(*conversion), " makes: the evaluation will refuse its model")};
}

}  // namespace

JobKind evaluate_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kEvaluation,
      .models = {"input", "baseline"},
      .data = {"data"},
      .measured_data = {"data"},
      .tasks = "tasks",
      .effects =
          {
              {"EvaluateSpec.input", kContents},
              {"EvaluateSpec.baseline", kContents},
              {"EvaluateSpec.tasks", kResult},
              {"EvaluateSpec.sequence_length", kResult},
              {"EvaluateSpec.max_tokens", kResult},
              {"EvaluateSpec.template", kResult},
              {"EvaluateSpec.append_eos", kResult},
              {"EvaluateSpec.top_k", kResult},
              {"EvaluateSpec.routing", kResult},
          },
      .fill = [](v1::Stage& stage) { *stage.mutable_evaluate() = filled_evaluate(stage.evaluate()); },
      .check = check_evaluate,
      .plan =
          [](const v1::Stage& stage) {
            const auto& tasks = stage.evaluate().tasks();
            return concat(comma_separated({tasks.begin(), tasks.end()}), " on ", stage.evaluate().data_size(),
                          " files");
          },
      .origin_warnings = top_k_warning,
  };
}

}  // namespace moe
