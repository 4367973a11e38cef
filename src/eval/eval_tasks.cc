#include "eval/eval_tasks.h"

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

}  // namespace moe
