// Causal attention of packed sequences on CUDA, by its formula: for fp32 and float64, and to compare with. d head_dim,
// L length of a sequence. One launch per sequence (of the forward pass, of dq, of dk and dv); a block has a query and
// head, or a key and kv head, and takes what it attends to in tiles of kThreads. Nothing of size L^2 is kept. Tensor
// cores are not used.
#include <cmath>
#include <cstdint>

#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 128;

/// One sequence: tokens [first, first + length) of what the arguments hold.
template <typename T>
struct Sequence {
  int64_t first, length;
  int64_t group, d, window;  // group: heads per kv head
  SumOf<T> scale;
  Rows<const T> q, k, v;
  SumOf<T>* log_sums;  // [heads, tokens]
  int64_t tokens;

  __device__ SumOf<T>& log_sum(int64_t head, int64_t i) const { return log_sums[head * tokens + first + i]; }
  __device__ const T* query(int64_t head, int64_t i) const { return q[first + i] + head * d; }
  __device__ const T* key(int64_t kv_head, int64_t i) const { return k[first + i] + kv_head * d; }
  __device__ const T* value(int64_t kv_head, int64_t i) const { return v[first + i] + kv_head * d; }
  /// Keys [first_key(i), i] are what query i sees; queries [i, end_query(i)) see key i.
  __device__ int64_t first_key(int64_t i) const { return window > 0 && i + 1 > window ? i + 1 - window : 0; }
  __device__ int64_t end_query(int64_t i) const { return window > 0 && i + window < length ? i + window : length; }
};

template <typename S, typename A, typename B>
__device__ S dot(const A* a, const B* b, int64_t d) {
  S sum = 0;
  for (int64_t i = 0; i < d; ++i) sum += widen(a[i]) * widen(b[i]);
  return sum;
}

template <typename T>
__global__ void attention_kernel(Sequence<T> s, Rows<T> out) {
  using S = SumOf<T>;
  extern __shared__ __align__(16) char shared_memory[];
  S* const sum = reinterpret_cast<S*>(shared_memory);  // [d]: of the values so far
  __shared__ S weights[kThreads];
  const int64_t i = blockIdx.x, head = blockIdx.y, kv_head = head / s.group;
  for (int64_t j = threadIdx.x; j < s.d; j += kThreads) sum[j] = 0;
  S top = -kInfinity<S>, total = 0;
  for (int64_t tile = s.first_key(i); tile <= i; tile += kThreads) {
    const int64_t key = tile + threadIdx.x, keys = min(i + 1 - tile, static_cast<int64_t>(kThreads));
    const S score = key <= i ? s.scale * dot<S>(s.query(head, i), s.key(kv_head, key), s.d) : -kInfinity<S>;
    const S higher = Larger{}(top, block_reduce<kThreads>(score, Larger{}));
    const S weight = exp(score - higher), shrink = exp(top - higher);
    weights[threadIdx.x] = weight;
    total = total * shrink + block_sum<kThreads>(weight);
    top = higher;
    for (int64_t j = threadIdx.x; j < s.d; j += kThreads) {
      S values = sum[j] * shrink;
      for (int64_t t = 0; t < keys; ++t) values += weights[t] * widen(s.value(kv_head, tile + t)[j]);
      sum[j] = values;
    }
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < s.d; j += kThreads) out[s.first + i][head * s.d + j] = narrow<T>(sum[j] / total);
  if (threadIdx.x == 0) s.log_sum(head, i) = top + log(total);
}

/// dscore of (query i, key j) is what its probability gets, less what all of the row's get.
template <typename T>
struct ScoreGradient {
  SumOf<T> probability, dscore;
};
template <typename T>
__device__ ScoreGradient<T> score_gradient(const Sequence<T>& s, int64_t head, int64_t i, int64_t key, const T* dout,
                                           SumOf<T> projection) {
  using S = SumOf<T>;
  const int64_t kv_head = head / s.group;
  const S score = s.scale * dot<S>(s.query(head, i), s.key(kv_head, key), s.d);
  const S probability = exp(score - s.log_sum(head, i));
  return {probability, probability * (dot<S>(dout, s.value(kv_head, key), s.d) - projection) * s.scale};
}

template <typename T>
__global__ void dq_kernel(Sequence<T> s, Rows<const T> dout, Rows<const T> out, Rows<T> dq) {
  using S = SumOf<T>;
  extern __shared__ __align__(16) char shared_memory[];
  S* const sum = reinterpret_cast<S*>(shared_memory);  // [d]
  __shared__ S dscores[kThreads];
  const int64_t i = blockIdx.x, head = blockIdx.y, kv_head = head / s.group;
  const T* const dout_i = dout[s.first + i] + head * s.d;
  const S projection = dot<S>(dout_i, out[s.first + i] + head * s.d, s.d);
  for (int64_t j = threadIdx.x; j < s.d; j += kThreads) sum[j] = 0;
  for (int64_t tile = s.first_key(i); tile <= i; tile += kThreads) {
    const int64_t key = tile + threadIdx.x, keys = min(i + 1 - tile, static_cast<int64_t>(kThreads));
    if (key <= i) dscores[threadIdx.x] = score_gradient(s, head, i, key, dout_i, projection).dscore;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < s.d; j += kThreads) {
      for (int64_t t = 0; t < keys; ++t) sum[j] += dscores[t] * widen(s.key(kv_head, tile + t)[j]);
    }
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < s.d; j += kThreads) dq[s.first + i][head * s.d + j] = narrow<T>(sum[j]);
}

template <typename T>
__global__ void dk_dv_kernel(Sequence<T> s, Rows<const T> dout, Rows<const T> out, Rows<T> dk, Rows<T> dv) {
  using S = SumOf<T>;
  extern __shared__ __align__(16) char shared_memory[];
  S* const dk_sum = reinterpret_cast<S*>(shared_memory);  // [d]
  S* const dv_sum = dk_sum + s.d;                         // [d]
  __shared__ ScoreGradient<T> gradients[kThreads];
  const int64_t key = blockIdx.x, kv_head = blockIdx.y, end = s.end_query(key);
  for (int64_t j = threadIdx.x; j < 2 * s.d; j += kThreads) dk_sum[j] = 0;
  for (int64_t head = kv_head * s.group; head < (kv_head + 1) * s.group; ++head) {
    const auto row = [&](const Rows<const T>& rows, int64_t i) { return rows[s.first + i] + head * s.d; };
    for (int64_t tile = key; tile < end; tile += kThreads) {
      const int64_t i = tile + threadIdx.x, queries = min(end - tile, static_cast<int64_t>(kThreads));
      if (i < end) {
        const S projection = dot<S>(row(dout, i), row(out, i), s.d);
        gradients[threadIdx.x] = score_gradient(s, head, i, key, row(dout, i), projection);
      }
      __syncthreads();
      for (int64_t j = threadIdx.x; j < s.d; j += kThreads) {
        for (int64_t t = 0; t < queries; ++t) {
          dk_sum[j] += gradients[t].dscore * widen(s.query(head, tile + t)[j]);
          dv_sum[j] += gradients[t].probability * widen(row(dout, tile + t)[j]);
        }
      }
      __syncthreads();
    }
  }
  for (int64_t j = threadIdx.x; j < s.d; j += kThreads) {
    dk[s.first + key][kv_head * s.d + j] = narrow<T>(dk_sum[j]);
    dv[s.first + key][kv_head * s.d + j] = narrow<T>(dv_sum[j]);
  }
}

/// Calls body(sequence) for all that have tokens.
template <typename T, typename Body>
void for_each_sequence(const AttentionShape& shape, const ConstMatrixView& q, const ConstMatrixView& k,
                       const ConstMatrixView& v, const ConstMatrixView& log_sums, const Body& body) {
  using S = SumOf<T>;
  const S scale = static_cast<S>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  auto* const sums = const_cast<S*>(static_cast<const S*>(log_sums.data));  // the gradient reads them alone
  for (size_t i = 0; i + 1 < shape.cu_seqlens.size(); ++i) {
    const int64_t first = shape.cu_seqlens[i], length = shape.cu_seqlens[i + 1] - first;
    if (length == 0) continue;
    body(Sequence<T>{first, length, shape.heads / shape.kv_heads, shape.head_dim, shape.window, scale, rows_of<T>(q),
                     rows_of<T>(k), rows_of<T>(v), sums, q.rows});
  }
}

dim3 blocks_of(int64_t tokens, int64_t heads, const char* op) {
  if (heads > 65535) throw InvalidArgument(concat(op, ": ", heads, " heads exceed what one launch can take (65535)"));
  return {grid(tokens, op), static_cast<unsigned>(heads), 1};
}

}  // namespace

void attention_cuda(const AttentionArgs& args, cudaStream_t stream) {
  with_type(args.q.dtype, [&]<typename T>(T) {
    const size_t shared_bytes = static_cast<size_t>(args.shape.head_dim) * sizeof(SumOf<T>);
    for_each_sequence<T>(args.shape, args.q, args.k, args.v, args.log_sums, [&](const Sequence<T>& sequence) {
      const dim3 blocks = blocks_of(sequence.length, args.shape.heads, "causal_attention");
      attention_kernel<T><<<blocks, kThreads, shared_bytes, stream>>>(sequence, rows_of<T>(args.out));
      MOE_CUDA_CHECK(cudaGetLastError());
    });
  });
}

void attention_gradient_cuda(const AttentionGradientArgs& args, cudaStream_t stream) {
  constexpr char kOp[] = "causal_attention_gradient";
  with_type(args.q.dtype, [&]<typename T>(T) {
    const size_t shared_bytes = static_cast<size_t>(args.shape.head_dim) * sizeof(SumOf<T>);
    const auto dout = rows_of<T>(args.dout), out = rows_of<T>(args.out);
    for_each_sequence<T>(args.shape, args.q, args.k, args.v, args.log_sums, [&](const Sequence<T>& sequence) {
      const dim3 queries = blocks_of(sequence.length, args.shape.heads, kOp);
      dq_kernel<T><<<queries, kThreads, shared_bytes, stream>>>(sequence, dout, out, rows_of<T>(args.dq));
      MOE_CUDA_CHECK(cudaGetLastError());
      const dim3 keys = blocks_of(sequence.length, args.shape.kv_heads, kOp);
      dk_dv_kernel<T>
          <<<keys, kThreads, 2 * shared_bytes, stream>>>(sequence, dout, out, rows_of<T>(args.dk), rows_of<T>(args.dv));
      MOE_CUDA_CHECK(cudaGetLastError());
    });
  });
}

}  // namespace moe::kernels
