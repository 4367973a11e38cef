#pragma once

#include <cstdint>
#include <vector>

/// Causal attention of packed sequences on plain memory on the CPU, built on kernels/matmul: what ops::causal_attention
/// puts autograd around. No Torch. As flash attention does, it works through blocks of queries and keeps no [T, T]
/// matrix: the backward computes the probabilities again from the logarithm of each row's sum.
///
/// Numerics  T is float or double. A query's result depends on its own sequence alone, bit for bit: not on the other
///           sequences, the number of threads or the processor's vectors. Probabilities and their gradients in T.
/// Threads   OpenMP over (sequence, kv head); the products inside run on one thread each.
/// Cost      per head 4 L^2 d operations forward and 10 L^2 d backward, times 1/2 + 64 / L for what the mask leaves
///           (less with many heads per kv head).
/// Source    Dao et al. 2022, arXiv:2205.14135; Ainslie et al. 2023, arXiv:2305.13245.
namespace moe {

/// q, out [T, heads, d]; k, v [T, kv_heads, d]; log_sums [heads, T]. All dense.
struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads: heads h * group ... share kv head h
  int64_t head_dim = 0;
  std::vector<int64_t> cu_seqlens;  ///< [sequences + 1], from 0 to T
  int64_t window = 0;               ///< a query sees the last `window` keys, its own included; 0: all before it
};

template <typename T>
void causal_attention_forward(const AttentionShape& shape, const T* q, const T* k, const T* v, T* out, T* log_sums);

/// Overwrites dq, dk, dv.
template <typename T>
struct AttentionGradients {
  T* dq;
  T* dk;
  T* dv;
};
template <typename T>
void causal_attention_backward(const AttentionShape& shape, const T* q, const T* k, const T* v, const T* out,
                               const T* log_sums, const T* dout, const AttentionGradients<T>& gradients);

}  // namespace moe
