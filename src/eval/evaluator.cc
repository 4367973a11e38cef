#include "eval/evaluator.h"

#include <memory>
#include <string>

#include "comm/agreement.h"
#include "common/error.h"
#include "eval/eval_tasks.h"
#include "runtime/loaded_model.h"
#include "runtime/model_settings.h"

namespace moe {
namespace {

using nlohmann::json;

/// Fills in what `spec` leaves to the model.
void settle(const LoadedModel& model, Communicator& world, v1::EvaluateSpec& spec) {
  agree(world, "settings of " + model.path.string(), [&] {
    spec.set_sequence_length(static_cast<int32_t>(sequence_length_for(model.config(), spec.sequence_length())));
    spec.set_template_(chat_template_for(model.path, model.config(), spec.template_()).name);
  });
}

/// `part` counts the tasks that are done, of this model and of one before: together they are one work, shown once.
json run_tasks(const LoadedModel& model, const EvaluateRequest& request, const v1::EvaluateSpec& spec, Mesh& mesh,
               int64_t& part) {
  json result = json::object();
  const int64_t parts = spec.tasks_size() * (request.baseline ? 2 : 1);
  for (const std::string& task : spec.tasks()) {
    const EvalSubject subject{model, mesh, spec,
                              [&](int64_t done, int64_t all) {
                                if (request.progress) request.progress(part * all + done, parts * all);
                              },
                              request.on_data_read};
    result.update(eval_tasks().at(task)(subject));
    ++part;
  }
  return result;
}

std::string digest_of(const std::shared_ptr<const Tokenizer>& tokenizer) {
  return tokenizer ? tokenizer->digest() : "";
}

void add_ratios(json& result, const json& baseline) {
  const auto ratio = [](const json& a, const json& b) {
    return a.at("loss").get<double>() / b.at("loss").get<double>();
  };
  if (!result.contains("loss")) return;
  result["loss_ratio_to_baseline"] = ratio(result, baseline);
  for (auto& [name, domain] : result["domains"].items()) {
    domain["loss_ratio_to_baseline"] = ratio(domain, baseline["domains"][name]);
  }
}

}  // namespace

json evaluate(const EvaluateRequest& request, Communicator& world) {
  Mesh mesh(world, request.gang.expert_parallel());
  // The model decides on row length and chat template; the baseline reads the same rows.
  v1::EvaluateSpec spec = request.spec;
  json result;
  std::string tokenizer;
  int64_t part = 0;
  {
    const LoadedModel model = load_model(request.model, mesh, compute_type(request.gang));
    settle(model, world, spec);
    tokenizer = digest_of(model.tokenizer);
    result = run_tasks(model, request, spec, mesh, part);
  }
  if (!request.baseline) return result;
  const LoadedModel baseline = load_model(*request.baseline, mesh, compute_type(request.gang));
  settle(baseline, world, spec);
  if (digest_of(baseline.tokenizer) != tokenizer) {
    throw_agreed<InvalidArgument>(
        concat("baseline ", request.baseline->string(), " has another tokenizer than ", request.model.string(),
               ": losses per token cannot be compared; give the dense model that this one was made from"));
  }
  const json measured = run_tasks(baseline, request, spec, mesh, part);
  add_ratios(result, measured);
  result["baseline"] = measured;
  return result;
}

}  // namespace moe
