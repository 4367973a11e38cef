#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"

// T tokens of this rank, F neurons.
namespace moe {

/// How often neurons are active together: entry (i, j) counts the tokens, of all ranks, on which both are among the
/// `active` neurons that give most, of equal ones the lower. 0 on the diagonal. [F, F] float, whole numbers, so that
/// the bits do not depend on ranks or on the order of the tokens. Collective.
/// Cost     F^2 floats, and 2 T F^2 operations.
at::Tensor coactivation_counts(const at::Tensor& activations_TF, int64_t active, Communicator& world);

/// Counts become the weights of a graph's edges, in place: floor(count / t), where t is 0.99 of the first decile of
/// all counts that is not 0. Whole numbers; counts below t make no edge. `tokens`: of all ranks.
/// Source   LLaMA-MoE v1 code (GraphSplit).
void weigh_edges(at::Tensor& counts_FF, int64_t tokens);

}  // namespace moe
