#include "convert/coactivation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

/// Tokens whose active neurons are laid out at a time.
constexpr int64_t kTokensAtOnce = 512;

/// 1 where a neuron is among the `active` of its token that give most. [t, F]
at::Tensor most_active(const at::Tensor& activations_tF, int64_t active) {
  const at::Tensor sizes = activations_tF.to(at::kFloat).abs().contiguous();
  at::Tensor is_active = at::zeros(sizes.sizes(), at::kFloat);
  const int64_t neurons = sizes.size(1);
  std::vector<int32_t> order(neurons);
  for (int64_t token = 0; token < sizes.size(0); ++token) {
    const float* size = sizes.const_data_ptr<float>() + token * neurons;
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + (active - 1), order.end(),
                     [size](int32_t a, int32_t b) { return size[a] > size[b] || (size[a] == size[b] && a < b); });
    float* row = is_active.mutable_data_ptr<float>() + token * neurons;
    for (int64_t i = 0; i < active; ++i) row[order[i]] = 1;
  }
  return is_active;
}

/// The first of the 10th, 20th, ..., 100th percentiles of a set of counts that is not 0; 0 if all are.
int64_t first_decile(const std::vector<int64_t>& how_many_of_count) {
  const int64_t all = std::accumulate(how_many_of_count.begin(), how_many_of_count.end(), int64_t{0});
  for (int64_t tenth = 1; tenth <= 10; ++tenth) {
    // The least count that at least so many are not above.
    int64_t below = 0, count = 0;
    for (; count + 1 < static_cast<int64_t>(how_many_of_count.size()); ++count) {
      below += how_many_of_count[count];
      if (below * 10 >= all * tenth) break;
    }
    if (count > 0) return count;
  }
  return 0;
}

}  // namespace

at::Tensor coactivation_counts(const at::Tensor& activations_TF, int64_t active, Communicator& world) {
  const int64_t neurons = activations_TF.size(1);
  MOE_CHECK(active >= 1 && active <= neurons, active, " active neurons of ", neurons);
  at::Tensor counts_FF = at::zeros({neurons, neurons}, at::kFloat);
  for (int64_t first = 0; first < activations_TF.size(0); first += kTokensAtOnce) {
    const at::Tensor is_active =
        most_active(activations_TF.slice(0, first, std::min(first + kTokensAtOnce, activations_TF.size(0))), active);
    counts_FF.addmm_(is_active.t(), is_active);
  }
  counts_FF.fill_diagonal_(0);
  world.all_reduce_sum(counts_FF, "coactivation of neurons");
  return counts_FF;
}

void weigh_edges(at::Tensor& counts_FF, int64_t tokens) {
  std::vector<int64_t> how_many(tokens + 1, 0);
  float* const counts = counts_FF.mutable_data_ptr<float>();
  for (int64_t i = 0; i < counts_FF.numel(); ++i) ++how_many.at(static_cast<size_t>(counts[i]));
  how_many[0] -= counts_FF.size(0);  // the diagonal
  const double threshold = 0.99 * static_cast<double>(first_decile(how_many));
  std::vector<float> weights(tokens + 1, 0);
  for (size_t count = 1; count < weights.size() && threshold > 0; ++count)
    weights[count] = static_cast<float>(std::floor(static_cast<double>(count) / threshold));
  for (int64_t i = 0; i < counts_FF.numel(); ++i) counts[i] = weights[static_cast<size_t>(counts[i])];
}

}  // namespace moe
