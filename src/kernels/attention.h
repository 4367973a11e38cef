#pragma once

#include <cstdint>
#include <span>

#include "kernels/views.h"

/// Causal attention of packed sequences, in blocks of queries: as flash attention does, it keeps no [T, T] matrix, and
/// its gradient computes the probabilities again from the logarithm of each row's sum. T tokens, d head_dim.
///
/// Shapes    q, out [T, heads * d]; k, v [T, kv_heads * d], all of one dtype; log_sums [heads, T] of sum_dtype, without
///           gaps. Gradients as what they are of; every element is written.
/// Numerics  scores, probabilities and their gradients in sum_dtype; results rounded once. A query's result depends on
///           its own sequence alone, bit for bit: not on the other sequences, the number of threads or the processor's
///           vectors.
/// Threads   any number of threads may call at once. On CPU OpenMP over (sequence, kv head); the products inside run on
///           one thread each.
/// Async     on kCuda enqueued on queue.stream; on kCpu done on return.
/// CUDA      by its formula, without tensor cores: for fp32 and float64, and to compare with.
/// Cost      per head 4 L^2 d operations forward and 10 L^2 d backward, times 1/2 + 64 / L for what the mask leaves
///           (less with many heads per kv head).
/// Throws    InvalidArgument if shapes, dtypes or sequences disagree, or where the device has no version.
/// Source    Dao et al. 2022, arXiv:2205.14135; Ainslie et al. 2023, arXiv:2305.13245.
namespace moe::kernels {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads: heads h * group ... share kv head h
  int64_t head_dim = 0;
  std::span<const int64_t> cu_seqlens;  ///< [sequences + 1], from 0 to T; on the host, as the batch that it describes
  int64_t window = 0;                   ///< a query sees the last `window` keys, its own included; 0: all before it
};

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v,
                      MatrixView out, MatrixView log_sums, Queue queue = {});

void causal_attention_gradient(const AttentionShape& shape, ConstMatrixView dout, ConstMatrixView q, ConstMatrixView k,
                               ConstMatrixView v, ConstMatrixView out, ConstMatrixView log_sums, MatrixView dq,
                               MatrixView dk, MatrixView dv, Queue queue = {});

}  // namespace moe::kernels
