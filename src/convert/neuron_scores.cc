#include "convert/neuron_scores.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
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

/// 1 for the largest, equal ones with the mean of their places. Empty where all are equal.
std::vector<double> mean_ranks(const at::Tensor& scores_F) {
  const std::vector<int32_t> order = by_falling_score(scores_F);
  const at::Tensor scores = scores_F.to(at::kDouble).contiguous();
  const auto* const score = scores.const_data_ptr<double>();
  std::vector<double> ranks(order.size());
  for (size_t first = 0, end = 0; first < order.size(); first = end) {
    while (end < order.size() && score[order[end]] == score[order[first]]) ++end;
    if (first == 0 && end == order.size()) return {};
    for (size_t i = first; i < end; ++i) ranks[order[i]] = static_cast<double>(first + end + 1) / 2;
  }
  return ranks;
}

/// Of lists of one length with the same mean, that of ranks.
double correlation_of_ranks(const std::vector<double>& a, const std::vector<double>& b) {
  const double mean = (static_cast<double>(a.size()) + 1) / 2;
  double a_b = 0, a_a = 0, b_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    a_b += (a[i] - mean) * (b[i] - mean);
    a_a += (a[i] - mean) * (a[i] - mean);
    b_b += (b[i] - mean) * (b[i] - mean);
  }
  return a_b / std::sqrt(a_a * b_b);
}

}  // namespace

double rank_correlation(const at::Tensor& a_GF, const at::Tensor& b_GF) {
  double sum = 0;
  int64_t groups = 0;
  for (int64_t group = 0; group < a_GF.size(0); ++group) {
    const std::vector<double> a = mean_ranks(a_GF[group]), b = mean_ranks(b_GF[group]);
    if (a.empty() || b.empty()) continue;
    sum += correlation_of_ranks(a, b);
    ++groups;
  }
  return groups == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(groups);
}

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
      *divisor = std::abs(std::accumulate(first, first + row.numel(), 0.0));
    }
    if (*divisor == 0) *divisor = 1;
  }
  return scores_GF / divisors_G1;
}

}  // namespace moe
