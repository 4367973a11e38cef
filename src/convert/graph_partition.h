#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moe {

/// Parts of equal size (by one at most unequal) of a graph's nodes, with much weight on the edges inside of parts. Each
/// part grows from its heaviest node by the one that it pulls most; then, pair of parts by pair, the two nodes whose
/// exchange gains most change places, until no exchange of any two nodes gains anything. No random numbers: of equal
/// choices the lower node. Parts are numbered by their least node.
///
/// Shapes   weights [F, F] float, symmetric, whole numbers not below 0, 0 on the diagonal -> part of each node [F].
/// Source   Kernighan & Lin 1970 for the exchanges. LLaMA-MoE v1 uses METIS and moves surplus nodes at random.
/// Cost     F^2 for the start, F for each exchange.
std::vector<int32_t> balanced_partition(const at::Tensor& weights_FF, int64_t parts);

/// Weight of the edges inside of parts, each once.
double weight_inside(const at::Tensor& weights_FF, const std::vector<int32_t>& part_of);

}  // namespace moe
