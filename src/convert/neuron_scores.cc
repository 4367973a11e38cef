#include "convert/neuron_scores.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "common/error.h"

namespace moe {
namespace {

at::Tensor ranks_of(const at::Tensor& scores_GF) {
  at::Tensor ranks_GF = at::empty_like(scores_GF);
  for (int64_t group = 0; group < scores_GF.size(0); ++group) {
    auto* const rank = ranks_GF[group].mutable_data_ptr<double>();
    double next = static_cast<double>(scores_GF.size(1));
    for (const int32_t neuron : by_falling_score(scores_GF[group])) rank[neuron] = next--;
  }
  return ranks_GF;
}

}  // namespace

std::vector<int32_t> by_falling_score(const at::Tensor& scores_F) {
  const at::Tensor scores = scores_F.to(at::kDouble).contiguous();
  const auto* const score = scores.const_data_ptr<double>();
  std::vector<int32_t> order(scores.numel());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [score](int32_t a, int32_t b) { return score[a] > score[b]; });
  return order;
}

std::vector<int32_t> best_neurons(const at::Tensor& scores_F, int64_t count) {
  std::vector<int32_t> best = by_falling_score(scores_F);
  MOE_CHECK(count <= static_cast<int64_t>(best.size()), "the best ", count, " of ", best.size(), " neurons");
  best.resize(count);
  std::sort(best.begin(), best.end());
  return best;
}

at::Tensor comparable_scores(const Importance& importance, const std::string& normalise) {
  const at::Tensor scores_GF = importance.scores_GF.to(at::kDouble).contiguous();
  if (normalise == "rank") return ranks_of(scores_GF);
  MOE_CHECK(normalise == "none" || normalise == "per_cluster_sum", "no such form of scores: ", normalise);
  // Without tokens all scores are 0 and stay so, whatever they are divided by.
  at::Tensor divisors_G1 = importance.tokens_G.to(at::kDouble).unsqueeze(1).clone();
  for (int64_t group = 0; group < scores_GF.size(0); ++group) {
    auto* const divisor = divisors_G1[group].mutable_data_ptr<double>();
    if (normalise == "per_cluster_sum") {
      const at::Tensor row = scores_GF[group];
      const auto* const first = row.const_data_ptr<double>();
      *divisor = std::accumulate(first, first + row.numel(), 0.0);
    }
    if (*divisor == 0) *divisor = 1;
  }
  return scores_GF / divisors_G1;
}

}  // namespace moe
