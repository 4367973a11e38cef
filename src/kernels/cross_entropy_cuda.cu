// The loss of rows of logits and its gradient on CUDA. V vocabulary. One block per row.
#include <cstdint>

#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 256;

template <typename T, int V>
__global__ void cross_entropy_kernel(Rows<const T> logits, const int64_t* labels, int64_t ignored, int64_t width,
                                     SumOf<T>* losses, SumOf<T>* log_sums) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x, label = labels[row];
  if (label == ignored) {
    if (threadIdx.x == 0) losses[row] = log_sums[row] = 0;
    return;
  }
  const T* const x = logits[row];
  S top = -kInfinity<S>;
  for (int64_t i = threadIdx.x * V; i < width; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x + i);
    for (int v = 0; v < V; ++v) top = Larger{}(top, widen(in.items[v]));
  }
  top = block_reduce<kThreads>(top, Larger{});
  S sum = 0;
  for (int64_t i = threadIdx.x * V; i < width; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x + i);
    for (int v = 0; v < V; ++v) sum += exp(widen(in.items[v]) - top);
  }
  const S log_sum = top + log(block_sum<kThreads>(sum));
  if (threadIdx.x == 0) {
    log_sums[row] = log_sum;
    losses[row] = log_sum - widen(x[label]);
  }
}

/// dlogits may be the logits: a thread reads a word before it writes it, and no other's.
template <typename T, int V>
__global__ void cross_entropy_gradient_kernel(const SumOf<T>* dlosses, Rows<const T> logits, const SumOf<T>* log_sums,
                                              const int64_t* labels, int64_t ignored, int64_t width, Rows<T> dlogits) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x, label = labels[row];
  const S dloss = dlosses[row], log_sum = log_sums[row];
  for (int64_t i = threadIdx.x * V; i < width; i += kThreads * V) {
    Pack<T, V> out;
    if (label == ignored) {
      for (int v = 0; v < V; ++v) out.items[v] = narrow<T>(S{0});
    } else {
      const Pack<T, V> in = load<V>(logits[row] + i);
      for (int v = 0; v < V; ++v) {
        const S share = exp(widen(in.items[v]) - log_sum) * dloss;
        // Of the label the difference is rounded, not its parts: near a probability of 1 they would cancel in bf16.
        out.items[v] = narrow<T>(i + v == label ? share - dloss : share);
      }
    }
    store(dlogits[row] + i, out);
  }
}

}  // namespace

void cross_entropy_cuda(const CrossEntropyArgs& args, cudaStream_t stream) {
  if (args.logits.rows == 0) return;
  with_type(args.logits.dtype, [&]<typename T>(T) {
    with_pack<T>(are_wide(args.logits), [&]<int V>(std::integral_constant<int, V>) {
      using S = SumOf<T>;
      const unsigned blocks = grid(args.logits.rows, "cross_entropy");
      cross_entropy_kernel<T, V><<<blocks, kThreads, 0, stream>>>(rows_of<T>(args.logits), args.labels, args.ignored,
                                                                  args.logits.cols, elements_of<S>(args.losses),
                                                                  elements_of<S>(args.log_sums));
      MOE_CUDA_CHECK(cudaGetLastError());
    });
  });
}

void cross_entropy_gradient_cuda(const CrossEntropyGradientArgs& args, cudaStream_t stream) {
  if (args.logits.rows == 0) return;
  with_type(args.logits.dtype, [&]<typename T>(T) {
    with_pack<T>(are_wide(args.logits, args.dlogits), [&]<int V>(std::integral_constant<int, V>) {
      using S = SumOf<T>;
      const unsigned blocks = grid(args.logits.rows, "cross_entropy_gradient");
      cross_entropy_gradient_kernel<T, V><<<blocks, kThreads, 0, stream>>>(
          elements_of<S>(args.dlosses), rows_of<T>(args.logits), elements_of<S>(args.log_sums), args.labels,
          args.ignored, args.logits.cols, rows_of<T>(args.dlogits));
      MOE_CUDA_CHECK(cudaGetLastError());
    });
  });
}

}  // namespace moe::kernels
