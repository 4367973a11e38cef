#include "train/router_problems.h"

#include <optional>

#include "common/error.h"

namespace moe {

std::vector<RouterProblem> router_problems(const v1::TrainSpec& spec, const ModelConfig& config) {
  const std::optional<MoeConfig>& moe = config.moe;
  std::vector<RouterProblem> problems;
  if (!moe && spec.has_routing() && spec.routing() != "router") {
    problems.push_back({"routing", concat("routing '", spec.routing(),
                                          "' chooses experts, and this model has none: it is dense; remove it")});
  }
  const std::string capacity = concat("capacity_factor ", spec.capacity_factor());
  if (spec.capacity_factor() > 0 && (!moe || moe->num_experts == 0)) {
    problems.push_back(
        {"capacity_factor", capacity + " is of feed-forward experts, and this model has none: its feed-forward layers "
                                       "are dense; remove it"});
  } else if (spec.capacity_factor() > 0 && moe->top_k != 1) {
    problems.push_back({"capacity_factor", concat(capacity, " is of models with top_k 1, and this one has top_k ",
                                                  moe->top_k, ", whose experts take every token; remove it")});
  }
  const bool has_bias = moe && (moe->has_selection_bias || (moe->attention && moe->attention->has_selection_bias));
  if (spec.balance() == "importance_load" && has_bias) {
    problems.push_back({"balance",
                        "balance importance_load measures the load by the routers' logits, and this model's routers "
                        "choose by selection biases besides; train it with balance selection_bias, quantile or "
                        "auxiliary"});
  }
  return problems;
}

}  // namespace moe
