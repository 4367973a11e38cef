#pragma once

#include <cstdint>

#include "kernels/views.h"

namespace moe::kernels {

/// Rows that lie side by side by group, as those of experts do: group g has the next rows[g] of them.
struct RowGroups {
  const int64_t* rows = nullptr;  ///< [count], each may be 0; on the device: who sorts rows by expert leaves them there
  int64_t count = 0;
};

/// The three products of linear layers that lie side by side: group g takes its rows of x, and the rows [g * O,
/// (g + 1) * O) of the weights.
///
/// Shapes   x [R, I], weights [G * O, I], y [R, O]; gradients as in matmul.h, dweights [G * O, I], zero for a group
///          without rows. The groups' rows sum to R.
/// Numerics those of matmul.h, per group: rows are the same bits in every grouping. On CUDA by tiles of 16 x 16 in
///          sum_dtype, without tensor cores: no number is read on the host.
/// Threads  on CPU, where there are at least twice as many groups as OpenMP threads, each group runs on one thread:
///          products of a hundred rows lose a fifth to a quarter when two threads share them. Else as matmul.h.
/// Throws   InvalidArgument with the shapes if they disagree, and on CPU if the groups' rows are not all (on CUDA they
///          are not read); or where the device has no version.
void grouped_linear_forward(ConstMatrixView x, ConstMatrixView weights, MatrixView y, RowGroups groups,
                            Queue queue = {});
void grouped_linear_input_gradient(ConstMatrixView dy, ConstMatrixView weights, MatrixView dx, RowGroups groups,
                                   Queue queue = {});
void grouped_linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweights, RowGroups groups,
                                    Queue queue = {});

/// The biases of such layers: row g of bias [G, O] is added to each row of group g of y [R, O].
void grouped_add_bias(ConstMatrixView bias, MatrixView y, RowGroups groups, Queue queue = {});
/// Row g of sums [G, O] = sum of the rows of group g of x [R, O], added as sum_rows of rows.h does.
void grouped_sum_rows(ConstMatrixView x, MatrixView sums, RowGroups groups, Queue queue = {});

}  // namespace moe::kernels
