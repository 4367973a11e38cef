#include "convert/greedy_assignment.h"

#include <algorithm>

#include "common/error.h"
#include "convert/neuron_scores.h"

namespace moe {
namespace {

/// One expert's neurons by falling score, up to the first that nobody has.
struct Wishes {
  std::vector<int32_t> order;
  size_t next = 0;
};

}  // namespace

std::vector<std::vector<int32_t>> greedy_assignment(const at::Tensor& scores_EF, int64_t capacity,
                                                    const std::vector<int32_t>& neurons) {
  const int64_t experts = scores_EF.size(0);
  MOE_CHECK(static_cast<int64_t>(neurons.size()) <= experts * capacity, neurons.size(), " neurons in ", experts,
            " experts of ", capacity);
  const at::Tensor scores = scores_EF.to(at::kDouble).contiguous();
  const auto score = [first = scores.const_data_ptr<double>(), width = scores.size(1)](int64_t expert, int32_t neuron) {
    return first[expert * width + neuron];
  };
  std::vector<bool> is_free(scores.size(1), false);
  for (const int32_t neuron : neurons) is_free[neuron] = true;
  std::vector<Wishes> wishes(experts);
  for (int64_t expert = 0; expert < experts; ++expert) wishes[expert].order = by_falling_score(scores[expert]);

  std::vector<std::vector<int32_t>> given(experts);
  for (size_t left = neurons.size(); left > 0; --left) {
    int64_t chooser = -1;
    for (int64_t expert = 0; expert < experts; ++expert) {
      if (static_cast<int64_t>(given[expert].size()) == capacity) continue;
      Wishes& wish = wishes[expert];
      while (!is_free[wish.order[wish.next]]) ++wish.next;
      if (chooser < 0 ||
          score(expert, wish.order[wish.next]) >= score(chooser, wishes[chooser].order[wishes[chooser].next]))
        chooser = expert;
    }
    const int32_t neuron = wishes[chooser].order[wishes[chooser].next];
    is_free[neuron] = false;
    given[chooser].push_back(neuron);
  }
  for (std::vector<int32_t>& of_expert : given) std::sort(of_expert.begin(), of_expert.end());
  return given;
}

}  // namespace moe
