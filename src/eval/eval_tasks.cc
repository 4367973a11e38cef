#include "eval/eval_tasks.h"

#include <cmath>
#include <map>
#include <optional>
#include <string>

#include "comm/agreement.h"
#include "eval/load_statistics.h"
#include "eval/perplexity.h"
#include "runtime/model_settings.h"

namespace moe {
namespace {

nlohmann::json loss_json(const LossSum& sum) {
  return {{"loss", sum.mean()}, {"perplexity", std::exp(sum.mean())}, {"tokens", sum.tokens}};
}

/// Loss and perplexity over the files, per domain and in all.
nlohmann::json perplexity(const EvalSubject& subject) {
  const ModelConfig& config = subject.model.config();
  std::optional<HeldOutData> data;
  std::map<std::string, std::string> files;
  agree(subject.mesh.world(), "read evaluation data", [&] {
    HeldOutOptions options;
    options.packing.sequence_length = sequence_length_for(config, subject.spec.sequence_length());
    options.packing.append_eos = subject.spec.append_eos();
    options.packing.chat_template = chat_template_for(subject.model.path, config, subject.spec.template_());
    options.packing.vocab_size = config.vocab_size;
    options.max_tokens = subject.spec.max_tokens();
    data.emplace(data_files(subject.spec.data()), subject.model.tokenizer, options);
    files = data->file_digests();
  });
  require_same_files(subject.mesh.world(), "before the evaluation", files);
  if (subject.on_data_read) subject.on_data_read(files);
  const LossReport report =
      measure_loss(subject.model.decoder, *subject.model.dispatcher, *data, subject.mesh, subject.progress);

  nlohmann::json result = loss_json(report.total());
  for (const auto& [name, sum] : report.domains) result["domains"][name] = loss_json(sum);
  if (!report.expert_load.empty()) {
    result["expert_load"] = report.expert_load;
    result["dead_expert_fraction"] = dead_expert_fraction(report.expert_load);
    result["load_max_over_mean"] = load_max_over_mean(report.expert_load);
  }
  return result;
}

}  // namespace

const Registry<EvalTask>& eval_tasks() {
  static const Registry<EvalTask> tasks("evaluation task", {
                                                               {"perplexity", perplexity},
                                                           });
  return tasks;
}

}  // namespace moe
