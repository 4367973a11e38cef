// Norms of rows and their gradients on CUDA. D hidden. One block per row, which it reads twice: the second time from
// the cache. The weights' gradients are sums over rows, launches of their own.
#include <cstdint>

#include "kernels/cuda_columns.h"
#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 256;

template <typename S>
__device__ S inverse_root(S squares, int64_t width, S eps) {
  return S{1} / sqrt(squares / static_cast<S>(width) + eps);
}

template <typename T, int V>
__global__ void rms_norm_kernel(Rows<const T> x, const T* weight, SumOf<T> eps, int64_t D, Rows<T> y,
                                SumOf<T>* inverse) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x;
  S squares = 0;
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x[row] + i);
    for (int v = 0; v < V; ++v) squares += widen(in.items[v]) * widen(in.items[v]);
  }
  const S scale = inverse_root(block_sum<kThreads>(squares), D, eps);
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x[row] + i), w = load<V>(weight + i);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) out.items[v] = narrow<T>((widen(in.items[v]) * scale) * widen(w.items[v]));
    store(y[row] + i, out);
  }
  if (threadIdx.x == 0) inverse[row] = scale;
}

template <typename T, int V>
__global__ void rms_norm_gradient_kernel(Rows<const T> dy, Rows<const T> x, const T* weight, const SumOf<T>* inverse,
                                         int64_t D, Rows<T> dx) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x;
  const S scale = inverse[row];
  S projection = 0;
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> d = load<V>(dy[row] + i), in = load<V>(x[row] + i), w = load<V>(weight + i);
    for (int v = 0; v < V; ++v) {
      projection += (widen(d.items[v]) * widen(w.items[v])) * (widen(in.items[v]) * scale);
    }
  }
  projection = block_sum<kThreads>(projection) / static_cast<S>(D);
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> d = load<V>(dy[row] + i), in = load<V>(x[row] + i), w = load<V>(weight + i);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) {
      const S slope = widen(d.items[v]) * widen(w.items[v]);
      out.items[v] = narrow<T>((slope - (widen(in.items[v]) * scale) * projection) * scale);
    }
    store(dx[row] + i, out);
  }
}

template <typename T, int V>
__global__ void layer_norm_kernel(Rows<const T> x, const T* weight, const T* bias, SumOf<T> eps, int64_t D, Rows<T> y,
                                  SumOf<T>* mean, SumOf<T>* inverse) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x;
  S sum = 0;
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x[row] + i);
    for (int v = 0; v < V; ++v) sum += widen(in.items[v]);
  }
  const S middle = block_sum<kThreads>(sum) / static_cast<S>(D);
  S squares = 0;
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x[row] + i);
    for (int v = 0; v < V; ++v) squares += (widen(in.items[v]) - middle) * (widen(in.items[v]) - middle);
  }
  const S scale = inverse_root(block_sum<kThreads>(squares), D, eps);
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> in = load<V>(x[row] + i), w = load<V>(weight + i), b = load<V>(bias + i);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) {
      const S normed = (widen(in.items[v]) - middle) * scale;
      out.items[v] = narrow<T>(normed * widen(w.items[v]) + widen(b.items[v]));
    }
    store(y[row] + i, out);
  }
  if (threadIdx.x == 0) {
    mean[row] = middle;
    inverse[row] = scale;
  }
}

template <typename T, int V>
__global__ void layer_norm_gradient_kernel(Rows<const T> dy, Rows<const T> x, const T* weight, const SumOf<T>* mean,
                                           const SumOf<T>* inverse, int64_t D, Rows<T> dx) {
  using S = SumOf<T>;
  const int64_t row = blockIdx.x;
  const S middle = mean[row], scale = inverse[row];
  S shift = 0, projection = 0;
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> d = load<V>(dy[row] + i), in = load<V>(x[row] + i), w = load<V>(weight + i);
    for (int v = 0; v < V; ++v) {
      const S slope = widen(d.items[v]) * widen(w.items[v]);
      shift += slope;
      projection += slope * ((widen(in.items[v]) - middle) * scale);
    }
  }
  shift = block_sum<kThreads>(shift) / static_cast<S>(D);
  projection = block_sum<kThreads>(projection) / static_cast<S>(D);
  for (int64_t i = threadIdx.x * V; i < D; i += kThreads * V) {
    const Pack<T, V> d = load<V>(dy[row] + i), in = load<V>(x[row] + i), w = load<V>(weight + i);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) {
      const S slope = widen(d.items[v]) * widen(w.items[v]), normed = (widen(in.items[v]) - middle) * scale;
      out.items[v] = narrow<T>(((slope - shift) - normed * projection) * scale);
    }
    store(dx[row] + i, out);
  }
}

/// term(row, column) = dy * (x - mean) * inverse; without a mean, RMSNorm's.
template <typename T>
struct NormedTerm {
  Rows<const T> dy, x;
  const SumOf<T>*mean, *inverse;

  __device__ SumOf<T> operator()(int64_t row, int64_t column) const {
    const SumOf<T> value = widen(x[row][column]), middle = mean == nullptr ? SumOf<T>{0} : mean[row];
    return widen(dy[row][column]) * ((value - middle) * inverse[row]);
  }
};

/// dweight, and dbias behind it if there is one.
template <typename T>
__global__ void weight_gradient_kernel(NormedTerm<T> term, int64_t rows, int64_t D, T* dweight, bool has_bias) {
  using S = SumOf<T>;
  const S of_weight = column_sum<S>(0, rows, D, term);
  if (writes_column(D)) dweight[this_column()] = narrow<T>(of_weight);
  if (!has_bias) return;
  const S of_bias = column_sum<S>(0, rows, D, ElementTerm<T>{term.dy});
  if (writes_column(D)) dweight[D + this_column()] = narrow<T>(of_bias);
}

template <typename T>
void launch_weight_gradient(const NormedTerm<T>& term, int64_t rows, int64_t D, const VectorView& dweight,
                            cudaStream_t stream) {
  if (dweight.data == nullptr || D == 0) return;
  // Not by term.mean, which is null where there are no rows.
  const bool has_bias = dweight.size == 2 * D;
  weight_gradient_kernel<T>
      <<<column_grid(D), column_block(), 0, stream>>>(term, rows, D, elements_of<T>(dweight), has_bias);
  MOE_CUDA_CHECK(cudaGetLastError());
}

/// Calls body(T{}, V) for the rows of `dtype`, where there are any.
template <typename Body>
void with_rows(const ConstMatrixView& x, bool is_wide, const Body& body) {
  with_type(x.dtype,
            [&]<typename T>(T type) { with_pack<T>(is_wide, [&](auto V) { body(type, V, grid(x.rows, "norm")); }); });
}

}  // namespace

void rms_norm_cuda(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.x.rows == 0) return;
  const bool wide = are_wide(args.x, args.y) && is_wide(args.weight);
  with_rows(args.x, wide, [&]<typename T, int V>(T, std::integral_constant<int, V>, unsigned blocks) {
    using S = SumOf<T>;
    rms_norm_kernel<T, V><<<blocks, kThreads, 0, stream>>>(rows_of<T>(args.x), elements_of<T>(args.weight),
                                                           static_cast<S>(args.eps), args.x.cols, rows_of<T>(args.y),
                                                           elements_of<S>(args.inverse));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void rms_norm_gradient_cuda(const RmsNormGradientArgs& args, cudaStream_t stream) {
  const bool wide = are_wide(args.dy, args.x, args.dx) && is_wide(args.weight);
  with_rows(args.x, wide, [&]<typename T, int V>(T, std::integral_constant<int, V>, unsigned blocks) {
    using S = SumOf<T>;
    const NormedTerm<T> term{rows_of<T>(args.dy), rows_of<T>(args.x), nullptr, elements_of<S>(args.inverse)};
    launch_weight_gradient(term, args.x.rows, args.x.cols, args.dweight, stream);
    if (blocks == 0) return;
    rms_norm_gradient_kernel<T, V><<<blocks, kThreads, 0, stream>>>(term.dy, term.x, elements_of<T>(args.weight),
                                                                    term.inverse, args.x.cols, rows_of<T>(args.dx));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void layer_norm_cuda(const LayerNormArgs& args, cudaStream_t stream) {
  if (args.x.rows == 0) return;
  const bool wide = are_wide(args.x, args.y) && is_wide(args.weight) && is_wide(args.bias);
  with_rows(args.x, wide, [&]<typename T, int V>(T, std::integral_constant<int, V>, unsigned blocks) {
    using S = SumOf<T>;
    layer_norm_kernel<T, V><<<blocks, kThreads, 0, stream>>>(
        rows_of<T>(args.x), elements_of<T>(args.weight), elements_of<T>(args.bias), static_cast<S>(args.eps),
        args.x.cols, rows_of<T>(args.y), elements_of<S>(args.mean), elements_of<S>(args.inverse));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void layer_norm_gradient_cuda(const LayerNormGradientArgs& args, cudaStream_t stream) {
  const bool wide = are_wide(args.dy, args.x, args.dx) && is_wide(args.weight);
  with_rows(args.x, wide, [&]<typename T, int V>(T, std::integral_constant<int, V>, unsigned blocks) {
    using S = SumOf<T>;
    const NormedTerm<T> term{rows_of<T>(args.dy), rows_of<T>(args.x), elements_of<S>(args.mean),
                             elements_of<S>(args.inverse)};
    launch_weight_gradient(term, args.x.rows, args.x.cols, args.dweight_dbias, stream);
    if (blocks == 0) return;
    layer_norm_gradient_kernel<T, V><<<blocks, kThreads, 0, stream>>>(
        term.dy, term.x, elements_of<T>(args.weight), term.mean, term.inverse, args.x.cols, rows_of<T>(args.dx));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace moe::kernels
