#include "model/moe/aux_loss.h"

#include "common/error.h"

namespace moe {

at::Tensor balance_loss(const std::vector<RouterStats>& local, const at::Tensor& tokens_per_expert_LE,
                        int64_t global_tokens, int64_t top_k) {
  MOE_CHECK(static_cast<int64_t>(local.size()) == tokens_per_expert_LE.size(0), "one row of counts per MoE layer");
  std::vector<at::Tensor> probability_sums;
  for (const RouterStats& stats : local) probability_sums.push_back(stats.probability_sum_E);
  const at::Tensor sums_LE = at::stack(probability_sums);
  const auto tokens = static_cast<double>(global_tokens);
  const at::Tensor fractions_LE =
      tokens_per_expert_LE.to(sums_LE.scalar_type()) / (static_cast<double>(top_k) * tokens);
  const auto experts = static_cast<double>(sums_LE.size(1));
  return (fractions_LE * (sums_LE / tokens)).sum(1).mean() * experts;
}

}  // namespace moe
