#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moe {

/// Gives each of `neurons` to one expert: the pair of an expert with room and a neuron without an expert that has the
/// largest score first. Of equal scores the higher expert chooses first, and takes its lower neuron.
///
/// Shapes   scores [E, F] double; neurons distinct, at most E times `capacity` -> neurons of each expert, ascending.
/// Source   LLaMA-MoE v1 (expert_split.py), Independent-Gradient; v2's importance split scans all pairs by falling
///          score, which gives the same.
std::vector<std::vector<int32_t>> greedy_assignment(const at::Tensor& scores_EF, int64_t capacity,
                                                    const std::vector<int32_t>& neurons);

}  // namespace moe
