#pragma once

#include "kernels/views.h"

namespace moe::kernels {

/// The three products of a linear layer y = x W^T, with x [T, I], W [O, I], y [T, O].
///
/// Shapes   forward:          y[T, O]  = x[T, I]   W[O, I]^T
///          input gradient:   dx[T, I] = dy[T, O]  W[O, I]
///          weight gradient:  dW[O, I] = dy[T, O]^T x[T, I]
///          All three matrices of one dtype; T may be 0 (then dW is zeroed).
/// Numerics fp32 and bf16 accumulate in fp32 (no TF32), float64 in float64. On CPU y in fp32 sums an I above 288 in
///          slices, so that its error is that of other libraries, and row t of y and dx depends on row t of its
///          input only, bit for bit, whatever T and the strides are: layouts of expert parallelism agree. dW
///          sums over t in an order that depends on the shape and the number of threads alone. On CUDA the library
///          picks an algorithm by shape, so a row's bits may depend on T.
/// Threads  any number of threads may call at once. On CPU a call uses the OpenMP threads of the calling thread.
/// Cost     2 T I O operations. On CPU a view whose rows lie apart (stride > cols) is copied first, the result
///          last: dense views save that. On CUDA any stride is taken as it is.
/// Async    on kCuda enqueued on queue.stream; on kCpu done on return.
/// Throws   InvalidArgument with the shapes if they disagree; HardwareError if the library fails.
/// Source   oneDNN `matmul` on CPU (a plain loop where it is absent, and for float64), cuBLASLt on CUDA.
void linear_forward(ConstMatrixView x, ConstMatrixView weight, MatrixView y, Queue queue = {});
void linear_input_gradient(ConstMatrixView dy, ConstMatrixView weight, MatrixView dx, Queue queue = {});
void linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweight, Queue queue = {});

}  // namespace moe::kernels
