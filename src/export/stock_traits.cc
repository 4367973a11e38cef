#include "export/stock_traits.h"

#include <algorithm>

namespace moe {

bool has_sigmoid_routers(const std::string& layout) {
  return layout == kGlm || layout == kSolar;
}

ChosenWeights chosen_weights(const MoeConfig& moe) {
  if (moe.topk_norm == "raw") return ChosenWeights::kScores;
  if (moe.topk_norm == "one_plus") return ChosenWeights::kGains;
  return moe.topk_norm == "renorm" || moe.top_k == 1 ? ChosenWeights::kRenormalised : ChosenWeights::kOnes;
}

bool needs_sigmoids(const MoeConfig& moe) {
  if (moe.score != "sigmoid") return false;
  const ChosenWeights weights = chosen_weights(moe);
  return moe.has_selection_bias || weights == ChosenWeights::kScores || weights == ChosenWeights::kGains ||
         (weights == ChosenWeights::kRenormalised && moe.top_k > 1);
}

bool has_shared_expert(const ModelConfig& config) {
  const std::vector<int64_t>& widths = config.moe->shared_widths;
  return std::any_of(widths.begin(), widths.end(), [](int64_t width) { return width > 0; });
}

bool has_gates_everywhere(const MoeConfig& moe) {
  const std::vector<int64_t> layers = moe.mixture_layers();
  return std::all_of(layers.begin(), layers.end(), [&](int64_t layer) { return moe.has_shared_gate(layer); });
}

}  // namespace moe
