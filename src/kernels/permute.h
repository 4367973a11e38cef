#pragma once

#include <cstdint>

#include "kernels/views.h"

/// Moving token rows to expert order and back. T tokens, D hidden, K slots per token, R rows in expert order.
/// `slot_rows` [T, K] int64 gives the row of each (token, slot), or -1 for a slot that is not here. T, K and R may
/// be 0.
///
/// Async    on kCuda enqueued on queue.stream (then indices and weights lie on the device); on kCpu done on return.
/// Throws   InvalidArgument if shapes disagree, and on CPU if an index is out of range (on CUDA that is not checked);
///          HardwareError if a launch fails.
/// Numerics sums in fp32 for fp32 and bf16, in float64 for float64; deterministic, and the same for any thread count.
namespace moe::kernels {

/// rows[r] = x[row_tokens[r]] for r in [0, R).
///
/// Shapes   x [T, D], row_tokens [R] int64 in [0, T), rows [R, D].
/// Cost     reads and writes R*D elements once.
void permute(ConstMatrixView x, const int64_t* row_tokens, MatrixView rows, Queue queue = {});

/// y[t] = sum over k of weights[t, k] * rows[slot_rows[t, k]], in the order of k, each product rounded before it is
/// added (so that a sum of two terms has the same bits in either order).
///
/// Shapes   rows [R, D], slot_rows [T, K], y [T, D]; weights [T, K] of sum_dtype(rows), rows without gaps; a view
///          without data stands for all ones.
void unpermute(ConstMatrixView rows, const int64_t* slot_rows, int64_t slots, ConstMatrixView weights, MatrixView y,
               Queue queue = {});

/// Gradients of unpermute: drows[slot_rows[t, k]] = weights[t, k] * dy[t], and
/// dweights[t, k] = <dy[t], rows[slot_rows[t, k]]>, 0 where slot_rows is -1.
///
/// Shapes   as above; drows [R, D], every row is written if each r is some slot's row; dweights as weights, or without
///          data: not wanted.
void unpermute_gradient(ConstMatrixView dy, ConstMatrixView rows, const int64_t* slot_rows, int64_t slots,
                        ConstMatrixView weights, MatrixView drows, MatrixView dweights, Queue queue = {});

}  // namespace moe::kernels
