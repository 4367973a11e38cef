#include "eval/evaluator.h"

#include <memory>

#include "checkpoint/model_directory.h"
#include "comm/agreement.h"
#include "eval/eval_tasks.h"
#include "eval/model_settings.h"
#include "parallel/dispatchers.h"

namespace moe {
namespace {

using nlohmann::json;

json evaluate_model(const EvaluateRequest& request, const std::filesystem::path& model, const std::string& what, Mesh& mesh) {
  std::unique_ptr<Decoder> decoder;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<TokenDispatcher> dispatcher;
  agree(mesh.world(), "load " + model.string(), [&] {
    const ModelDirectory directory(model);
    const auto& moe = directory.config().moe;
    dispatcher = moe ? make_dispatcher(mesh) : std::make_unique<LocalDispatcher>();
    decoder = std::make_unique<Decoder>(
        load_decoder(directory, compute_type(request.gang), moe ? mesh.owned_experts(moe->num_experts) : ExpertRange{}));
    tokenizer = tokenizer_for(model, directory.config());
  });
  json result = json::object();
  for (const std::string& task : request.spec.tasks()) {
    const EvalSubject subject{*decoder, *dispatcher, mesh, model, request.spec, tokenizer, [&](int64_t done, int64_t all) {
                                if (request.progress) request.progress(what, done, all);
                              }};
    result.update(eval_tasks().at(task)(subject));
  }
  return result;
}

}  // namespace

json evaluate(const EvaluateRequest& request, Communicator& world) {
  Mesh mesh(world, request.gang.expert_parallel());
  json result = evaluate_model(request, request.model, "model", mesh);
  if (!request.baseline) return result;
  const json baseline = evaluate_model(request, *request.baseline, "baseline", mesh);
  const auto ratio = [](const json& a, const json& b) { return a.at("loss").get<double>() / b.at("loss").get<double>(); };
  if (result.contains("loss")) {
    result["loss_ratio_to_baseline"] = ratio(result, baseline);
    for (auto& [name, domain] : result["domains"].items()) domain["loss_ratio_to_baseline"] = ratio(domain, baseline["domains"][name]);
  }
  result["baseline"] = baseline;
  return result;
}

}  // namespace moe
