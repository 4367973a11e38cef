#pragma once

#include <cstdint>

#include "kernels/views.h"

/// The decoder's operations on the elements of rows, and sums over rows. T or R rows (may be 0), I width.
///
/// Dtypes   one for all matrices and the bias; computed in sum_dtype, results rounded once.
/// Numerics a row's bits depend on the row alone: not on the rows beside it, the number of threads or the processor's
///          vectors. On CPU the exponential of fp32 is our own (error below 2 units in the last place), std::exp for
///          float64, and sums over rows go block by block of 64 rows; on CUDA it is CUDA's, and 16 lanes take every
///          16th row. The two devices' bits differ.
/// Threads  any number of threads may call at once. On CPU OpenMP over rows, above a size where it pays.
/// Async    on kCuda enqueued on queue.stream; on kCpu done on return.
/// Throws   InvalidArgument if shapes or dtypes disagree, or where the device has no version.
namespace moe::kernels {

/// y = silu(gate) * up, all [R, I].
/// Source   Shazeer 2020, arXiv:2002.05202.
void swiglu(ConstMatrixView gate, ConstMatrixView up, MatrixView y, Queue queue = {});
void swiglu_gradient(ConstMatrixView dy, ConstMatrixView gate, ConstMatrixView up, MatrixView dgate, MatrixView dup,
                     Queue queue = {});

/// y = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), both [R, I].
/// Source   Hendrycks & Gimpel 2016, arXiv:1606.08415, in the tanh form that Hugging Face calls gelu_new.
void gelu_new(ConstMatrixView x, MatrixView y, Queue queue = {});
void gelu_new_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dx, Queue queue = {});

/// y += bias in each row; bias [I].
void add_bias(ConstVectorView bias, MatrixView y, Queue queue = {});
/// sum [I] = sum of the rows of x [R, I].
void sum_rows(ConstMatrixView x, VectorView sum, Queue queue = {});

/// Turns the pairs (j, j + half) of each of `heads` heads by the row's angles and passes the rest of the head through.
/// `direction` -1 turns back.
///
/// Shapes   x, y [T, heads * head_dim]; cos, sin [T, half] of sum_dtype, 2 * half <= head_dim.
/// Source   Su et al. 2021, arXiv:2104.09864, in the half-split layout of Hugging Face.
void rope(ConstMatrixView x, ConstMatrixView cos, ConstMatrixView sin, int64_t heads, int direction, MatrixView y,
          Queue queue = {});

/// *sum = sum of x^2 in float64; `sum` lies on the device. Of memory as it lies: nothing is copied. Lanes (on CUDA the
/// threads of a block), then blocks of 2^15 elements, in a fixed order.
void sum_of_squares(ConstVectorView x, double* sum, Queue queue = {});

}  // namespace moe::kernels
