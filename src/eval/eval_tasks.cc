#include "eval/eval_tasks.h"

#include <optional>
#include <utility>

#include "comm/agreement.h"
#include "runtime/model_settings.h"

namespace moe {

// One file each, in tasks/.
nlohmann::json next_token_accuracy(const EvalSubject& subject);
nlohmann::json perplexity(const EvalSubject& subject);

const Registry<EvalTask>& eval_tasks() {
  static const Registry<EvalTask> tasks(
      "evaluation task",
      {
          {"perplexity", {"loss and perplexity per domain", "loss", perplexity}},
          {"next_token_accuracy",
           {"share of tokens that were the most likely ones", "next_token_accuracy", next_token_accuracy}},
      });
  return tasks;
}

HeldOutData read_data(const EvalSubject& subject) {
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
  return *std::move(data);
}

}  // namespace moe
