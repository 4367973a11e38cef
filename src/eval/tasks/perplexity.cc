#include <cmath>

#include "eval/eval_tasks.h"
#include "eval/load_statistics.h"

/// perplexity: loss and exp(loss) over the files, per domain and in all; the load of the experts on the way.
namespace moe {
namespace {

nlohmann::json loss_json(const TokenSum& sum) {
  return {{"loss", sum.mean()}, {"perplexity", std::exp(sum.mean())}, {"tokens", sum.tokens}};
}

}  // namespace

nlohmann::json perplexity(const EvalSubject& subject) {
  HeldOutData& data = subject.data();
  const TokenReport report = measure_loss(subject.model.decoder, *subject.model.dispatcher, data, subject.mesh,
                                          subject.progress, subject.choice);
  nlohmann::json result = loss_json(report.total());
  for (const auto& [name, sum] : report.domains) result["domains"][name] = loss_json(sum);
  if (!report.expert_load.empty()) {
    result["expert_load"] = report.expert_load;
    result["dead_expert_fraction"] = dead_expert_fraction(report.expert_load);
    result["load_max_over_mean"] = load_max_over_mean(report.expert_load);
    result["load_min_over_mean"] = load_min_over_mean(report.expert_load);
  }
  if (!report.attention_expert_load.empty()) {
    result["attention_expert_load"] = report.attention_expert_load;
    result["attention_dead_expert_fraction"] = dead_expert_fraction(report.attention_expert_load);
    result["attention_load_max_over_mean"] = load_max_over_mean(report.attention_expert_load);
    result["attention_load_min_over_mean"] = load_min_over_mean(report.attention_expert_load);
  }
  return result;
}

}  // namespace moe
