#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moe {

/// The `count` neurons that most groups of tokens have among their best, ascending. In rounds: of each group the
/// `window` best neurons that are left; those that stand in most windows are taken, in ascending order as far as there
/// is room, and the windows slide down. How large a score is does not count, but for the order.
///
/// Shapes   scores [G, F] double, of the groups that are asked; window > 0, count <= F.
/// Source   LLaMA-MoE v1 and v2 (expert_split_residual.py): the shared part of Sharing-Inter and of the residual split.
std::vector<int32_t> shared_selection(const at::Tensor& scores_GF, int64_t window, int64_t count);

/// What they leave of F neurons, ascending.
std::vector<int32_t> neurons_without(int64_t neurons, const std::vector<int32_t>& taken);

}  // namespace moe
