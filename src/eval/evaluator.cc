#include "eval/evaluator.h"

#include <map>
#include <memory>
#include <string>

#include "checkpoint/model_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "eval/eval_tasks.h"
#include "eval/model_settings.h"
#include "parallel/dispatchers.h"
#include "parallel/replicas.h"

namespace moe {
namespace {

using nlohmann::json;

struct LoadedModel {
  std::filesystem::path path;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<TokenDispatcher> dispatcher;
  std::shared_ptr<const Tokenizer> tokenizer;  ///< may be null
};

/// Collective. Fills in what `spec` leaves to the model.
LoadedModel load_model(const std::filesystem::path& path, const v1::GangSpec& gang, Mesh& mesh,
                       v1::EvaluateSpec& spec) {
  LoadedModel model;
  model.path = path;
  std::map<std::string, std::string> facts;
  agree(mesh.world(), "load " + path.string(), [&] {
    const ModelDirectory directory(path);
    const ModelConfig& config = directory.config();
    spec.set_sequence_length(static_cast<int32_t>(sequence_length_for(config, spec.sequence_length())));
    spec.set_template_(chat_template_for(path, config, spec.template_()).name);
    const OwnedExperts experts = mesh.owned_experts(config);
    model.dispatcher = config.moe ? make_dispatcher(mesh) : std::make_unique<LocalDispatcher>();
    model.decoder = std::make_unique<Decoder>(load_decoder(directory, compute_type(gang), experts));
    model.tokenizer = tokenizer_for(path);
    for (const auto& [name, digest] : replica_digests(model.decoder->parameters()))
      facts[name + " of " + path.string()] = digest;
  });
  require_same_files(mesh.world(), "load " + path.string(), facts);
  return model;
}

/// `part` counts the tasks that are done, of this model and of one before: together they are one work, shown once.
json run_tasks(const LoadedModel& model, const EvaluateRequest& request, const v1::EvaluateSpec& spec, Mesh& mesh,
               int64_t& part) {
  json result = json::object();
  const int64_t parts = spec.tasks_size() * (request.baseline ? 2 : 1);
  for (const std::string& task : spec.tasks()) {
    const EvalSubject subject{*model.decoder,
                              *model.dispatcher,
                              mesh,
                              model.path,
                              spec,
                              model.tokenizer,
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
    const LoadedModel model = load_model(request.model, request.gang, mesh, spec);
    tokenizer = digest_of(model.tokenizer);
    result = run_tasks(model, request, spec, mesh, part);
  }
  if (!request.baseline) return result;
  const LoadedModel baseline = load_model(*request.baseline, request.gang, mesh, spec);
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
