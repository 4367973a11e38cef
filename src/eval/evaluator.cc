#include "eval/evaluator.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "eval/eval_tasks.h"
#include "eval/held_out.h"
#include "runtime/loaded_model.h"
#include "runtime/model_settings.h"

namespace moe {
namespace {

using nlohmann::json;

/// How a model's experts are used; by default, and of every baseline, as the model itself does.
struct Manner {
  int64_t top_k = 0;  ///< 0: the model's
  ExpertChoice choice = ExpertChoice::kRouter;
};

/// Collective. Fills in what `spec` leaves to the model.
LoadedModel load_for(const std::filesystem::path& path, const v1::GangSpec& gang, Mesh& mesh, v1::EvaluateSpec& spec,
                     const Manner& manner) {
  const auto check = [&](const ModelConfig& config) {
    spec.set_sequence_length(static_cast<int32_t>(sequence_length_for(config, spec.sequence_length())));
    if (manner.choice != ExpertChoice::kRouter && !config.moe)
      throw InvalidArgument(concat(path.string(), ": routing '", spec.routing(),
                                   "' chooses experts, and this model has none: it is dense"));
  };
  LoadedModel model = load_model(path, mesh, compute_options(gang), spec.template_(), check,
                                 /*with_selection_bias=*/false, manner.top_k);
  spec.set_template_(model.text.chat_template.name);
  return model;
}

/// {task: result}. `part` counts the tasks that are done, of this model and of one before: together they are one work,
/// shown once.
json run_tasks(const LoadedModel& model, const EvaluateRequest& request, const v1::EvaluateSpec& spec,
               ExpertChoice choice, Mesh& mesh, int64_t& part) {
  json results = json::object();
  std::optional<HeldOutData> data;
  const auto read_once = [&]() -> HeldOutData& {
    return data ? *data
                : data.emplace(read_held_out(model, held_out_text(spec), request.monitor, mesh.world(),
                                             "before the evaluation"));
  };
  const int64_t parts = spec.tasks_size() * (request.baseline ? 2 : 1);
  for (const std::string& task : spec.tasks()) {
    const EvalSubject subject{
        model,
        mesh,
        spec,
        read_once,
        [&](int64_t done, int64_t all) {
          request.monitor.unit_done(
              {.phase = "evaluating", .unit = "row", .done = part * all + done, .all = parts * all});
        },
        {choice, {.seed = request.seed}}};
    results[task] = eval_tasks().at(task).run(subject);
    ++part;
  }
  return results;
}

std::string digest_of(const std::shared_ptr<const Tokenizer>& tokenizer) {
  return tokenizer ? tokenizer->digest() : "";
}

/// "<measure>_ratio_to_baseline" of one task's result, whole and by domain.
void add_ratios(const std::string& measure, json& result, const json& baseline) {
  const std::string name = measure + "_ratio_to_baseline";
  const auto ratio = [&](const json& a, const json& b) {
    return a.at(measure).get<double>() / b.at(measure).get<double>();
  };
  result[name] = ratio(result, baseline);
  for (auto& [domain, values] : result["domains"].items()) values[name] = ratio(values, baseline["domains"][domain]);
}

}  // namespace

json evaluate(const EvaluateRequest& request, Communicator& world) {
  Mesh mesh(world, request.gang.expert_parallel());
  // The model decides on row length and chat template; the baseline reads the same rows.
  v1::EvaluateSpec spec = request.spec;
  json result = json::object();
  std::string tokenizer;
  int64_t part = 0;
  {
    const Manner manner{spec.top_k(), spec.has_routing() ? parse_expert_choice(spec.routing()) : ExpertChoice::kRouter};
    const LoadedModel model = load_for(request.model, request.gang, mesh, spec, manner);
    tokenizer = digest_of(model.text.tokenizer);
    result["tasks"] = run_tasks(model, request, spec, manner.choice, mesh, part);
  }
  if (!request.baseline) return result;
  const LoadedModel baseline = load_for(*request.baseline, request.gang, mesh, spec, {});
  if (digest_of(baseline.text.tokenizer) != tokenizer) {
    throw_agreed<InvalidArgument>(
        concat("baseline ", request.baseline->string(), " has another tokenizer than ", request.model.string(),
               ": losses per token cannot be compared; give the dense model that this one was made from"));
  }
  result["baseline"]["tasks"] = run_tasks(baseline, request, spec, ExpertChoice::kRouter, mesh, part);
  for (auto& [task, values] : result["tasks"].items())
    add_ratios(eval_tasks().at(task).main_measure, values, result["baseline"]["tasks"][task]);
  return result;
}

}  // namespace moe
