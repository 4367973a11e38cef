#pragma once

#include <vector>

#include "model/parameters.h"

namespace moe {

/// Training in bfloat16: the weights that a decoder computes with, and their masters in float. The masters are what the
/// loop knows: they are updated, saved and written, and theirs are the gradients that it sums over ranks and clips.
/// Source   Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.
class WorkingWeights {
 public:
  /// A recipe's parameters and a decoder's, the same in the same order; both outlive it.
  WorkingWeights(std::vector<Parameter>& masters, std::vector<Parameter>& working);

  /// Takes over what the masters are now, rounded to the nearest.
  void round();
  /// Gradients are asked of what they are asked of among the masters.
  void require_gradients();
  /// After the backward of a micro-batch: adds its gradients to the masters', in float, and drops them.
  void move_gradients();

 private:
  std::vector<Parameter>& masters_;
  std::vector<Parameter>& working_;
};

}  // namespace moe
