#pragma once

#include <cstdint>
#include <span>

#include "kernels/views.h"

namespace moe::kernels {

/// The three products of linear layers that lie side by side, as those of experts do: group g takes the next
/// rows_per_group[g] rows of x, and the rows [g * O, (g + 1) * O) of the weights.
///
/// Shapes   x [R, I], weights [G * O, I], y [R, O]; gradients as in matmul.h, dweights [G * O, I], zero for a group
///          without rows. rows_per_group sums to R; each may be 0.
/// Numerics those of matmul.h, per group: rows are the same bits in every grouping.
/// Threads  on CPU, where there are at least twice as many groups as OpenMP threads, each group runs on one thread:
///          products of a hundred rows lose a fifth to a quarter when two threads share them. Else as matmul.h.
/// Throws   InvalidArgument with the shapes if they disagree.
void grouped_linear_forward(ConstMatrixView x, ConstMatrixView weights, MatrixView y,
                            std::span<const int64_t> rows_per_group, Queue queue = {});
void grouped_linear_input_gradient(ConstMatrixView dy, ConstMatrixView weights, MatrixView dx,
                                   std::span<const int64_t> rows_per_group, Queue queue = {});
void grouped_linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweights,
                                    std::span<const int64_t> rows_per_group, Queue queue = {});

}  // namespace moe::kernels
