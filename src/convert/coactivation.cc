#include "convert/coactivation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {
namespace {

/// Of this rank's tokens.
at::Tensor most_active(const at::Tensor& activations_TF, int64_t active) {
  const at::Tensor activations = activations_TF.to(at::kFloat).contiguous();
  const int64_t tokens = activations.size(0), neurons = activations.size(1);
  at::Tensor chosen_TA = at::empty({tokens, active}, at::kInt);
  std::vector<int32_t> order(neurons);
  for (int64_t token = 0; token < tokens; ++token) {
    const float* const h = activations.const_data_ptr<float>() + token * neurons;
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + (active - 1), order.end(), [h](int32_t a, int32_t b) {
      const float of_a = std::abs(h[a]), of_b = std::abs(h[b]);
      return of_a > of_b || (of_a == of_b && a < b);
    });
    std::sort(order.begin(), order.begin() + active);
    std::copy(order.begin(), order.begin() + active, chosen_TA.mutable_data_ptr<int32_t>() + token * active);
  }
  return chosen_TA;
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

/// Calls work(neurons) on several threads, each neuron once. Those with the fewest above them go with those with most.
template <typename Work>
void spread_over_threads(int64_t neurons, const Work& work) {
  at::parallel_for(0, (neurons + 1) / 2, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> mine;
    for (int64_t low = begin; low < end; ++low) {
      mine.push_back(low);
      if (const int64_t high = neurons - 1 - low; high != low) mine.push_back(high);
    }
    work(mine);
  });
}

/// How many pairs have each count. [tokens + 1]
std::vector<int64_t> pairs_by_count(const Coactivation& together) {
  std::vector<int64_t> pairs(together.tokens() + 1, 0);
  std::mutex mutex;
  spread_over_threads(together.neurons(), [&](const std::vector<int64_t>& neurons) {
    std::vector<int64_t> mine(pairs.size(), 0);
    std::vector<int32_t> counts(together.neurons());
    for (const int64_t neuron : neurons) {
      together.count(neuron, counts);
      for (int64_t other = neuron + 1; other < together.neurons(); ++other) ++mine[counts[other]];
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (size_t count = 0; count < pairs.size(); ++count) pairs[count] += mine[count];
  });
  return pairs;
}

}  // namespace

at::Tensor active_neurons(const at::Tensor& activations_TF, int64_t active, Communicator& world) {
  MOE_CHECK(active >= 1 && active <= activations_TF.size(1), active, " active neurons of ", activations_TF.size(1));
  at::Tensor mine;
  agree(world, "find the neurons that are active", [&] { mine = most_active(activations_TF, active); });
  return world.all_gather(mine, "active neurons of tokens");
}

Coactivation::Coactivation(const at::Tensor& active_TA, int64_t neurons)
    : neurons_(neurons),
      tokens_(active_TA.size(0)),
      active_(active_TA.size(1)),
      active_TA_(active_TA.contiguous()),
      first_place_(neurons + 1, 0),
      places_(active_TA.numel()) {
  const auto* const active = active_TA_.const_data_ptr<int32_t>();
  for (int64_t place = 0; place < active_TA_.numel(); ++place) ++first_place_[active[place] + 1];
  std::partial_sum(first_place_.begin(), first_place_.end(), first_place_.begin());
  std::vector<int64_t> next(first_place_.begin(), first_place_.end() - 1);
  for (int64_t place = 0; place < active_TA_.numel(); ++place) places_[next[active[place]]++] = place;
}

void Coactivation::count(int64_t neuron, std::vector<int32_t>& counts) const {
  std::fill(counts.begin() + neuron + 1, counts.begin() + neurons_, 0);
  const auto* const active = active_TA_.const_data_ptr<int32_t>();
  for (int64_t i = first_place_[neuron]; i < first_place_[neuron + 1]; ++i) {
    const int64_t place = places_[i], end = (place / active_ + 1) * active_;
    for (int64_t above = place + 1; above < end; ++above) ++counts[active[above]];
  }
}

std::vector<uint16_t> edge_weights(const std::vector<int64_t>& pairs_of_count) {
  const double threshold = 0.99 * static_cast<double>(first_decile(pairs_of_count));
  std::vector<uint16_t> weights(pairs_of_count.size(), 0);
  for (size_t count = 1; count < weights.size() && threshold > 0; ++count) {
    const double weight = std::floor(static_cast<double>(count) / threshold);
    weights[count] = static_cast<uint16_t>(std::min<double>(weight, std::numeric_limits<uint16_t>::max()));
  }
  return weights;
}

EdgeWeights coactivation_edges(const Coactivation& together) {
  const std::vector<uint16_t> weight_of = edge_weights(pairs_by_count(together));
  EdgeWeights edges(together.neurons());
  spread_over_threads(together.neurons(), [&](const std::vector<int64_t>& neurons) {
    std::vector<int32_t> counts(together.neurons());
    for (const int64_t neuron : neurons) {
      together.count(neuron, counts);
      for (int64_t other = neuron + 1; other < together.neurons(); ++other)
        edges.set(neuron, other, weight_of[counts[other]]);
    }
  });
  return edges;
}

}  // namespace moe
