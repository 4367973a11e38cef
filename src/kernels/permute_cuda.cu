// Tokens to expert order and back on CUDA. T tokens, D hidden, K slots, R rows. All three kernels are bound by memory:
// they move 16 bytes per thread and load where the rows allow it. Compiled with --fmad=false: a product is rounded
// before it is added, so a sum of two terms has the same bits in either order.
#include <cstdint>

#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 128;

/// One warp per row; Unit is the widest word that divides rows, strides and addresses.
template <typename Unit>
__global__ void permute_kernel(const Unit* x, int64_t x_stride, const int64_t* row_tokens, Unit* rows, int64_t stride,
                               int64_t row_count, int64_t units) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (r >= row_count) {
    return;
  }
  const Unit* const from = x + row_tokens[r] * x_stride;
  Unit* const to = rows + r * stride;
  for (int64_t c = threadIdx.x % kWarp; c < units; c += kWarp) {
    to[c] = from[c];
  }
}

/// One block per token.
template <typename T, int V>
__global__ void unpermute_kernel(const T* rows, int64_t row_stride, const int64_t* slot_rows, int64_t slots,
                                 const SumOf<T>* weights, T* y, int64_t y_stride, int64_t D) {
  using Sum = SumOf<T>;
  const int64_t t = blockIdx.x;
  for (int64_t c = static_cast<int64_t>(threadIdx.x) * V; c < D; c += kThreads * V) {
    Sum sum[V] = {};
    for (int64_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      const int64_t r = slot_rows[slot];
      if (r < 0) {
        continue;
      }
      const Sum weight = weights == nullptr ? Sum(1) : weights[slot];
      const auto pack = *reinterpret_cast<const Pack<T, V>*>(rows + r * row_stride + c);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[v] += weight * widen<T>(pack.items[v]);
      }
    }
    Pack<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      out.items[v] = narrow<T>(sum[v]);
    }
    *reinterpret_cast<Pack<T, V>*>(y + t * y_stride + c) = out;
  }
}

/// One block per (token, slot).
template <typename T, int V>
__global__ void unpermute_gradient_kernel(const T* dy, int64_t dy_stride, const T* rows, int64_t row_stride,
                                          const int64_t* slot_rows, int64_t slots, const SumOf<T>* weights, T* drows,
                                          int64_t drow_stride, SumOf<T>* dweights, int64_t D) {
  using Sum = SumOf<T>;
  const int64_t slot = blockIdx.x;
  const int64_t r = slot_rows[slot];
  Sum product = 0;
  if (r >= 0) {
    const Sum weight = weights == nullptr ? Sum(1) : weights[slot];
    const T* const dy_row = dy + slot / slots * dy_stride;
    for (int64_t c = static_cast<int64_t>(threadIdx.x) * V; c < D; c += kThreads * V) {
      const auto gradient = *reinterpret_cast<const Pack<T, V>*>(dy_row + c);
      Pack<T, V> out;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        out.items[v] = narrow<T>(weight * widen<T>(gradient.items[v]));
      }
      *reinterpret_cast<Pack<T, V>*>(drows + r * drow_stride + c) = out;
      if (dweights != nullptr) {
        const auto row = *reinterpret_cast<const Pack<T, V>*>(rows + r * row_stride + c);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          product += widen<T>(gradient.items[v]) * widen<T>(row.items[v]);
        }
      }
    }
  }
  if (dweights != nullptr) {
    product = block_sum<kThreads>(product);
    if (threadIdx.x == 0) {
      dweights[slot] = product;
    }
  }
}

template <typename Unit>
void launch_permute(const PermuteArgs& args, cudaStream_t stream) {
  constexpr int64_t kRowsPerBlock = kThreads / kWarp;
  const int64_t size = dtype_size(args.x.dtype);
  const auto in_units = [size](int64_t elements) { return elements * size / static_cast<int64_t>(sizeof(Unit)); };
  const unsigned blocks = grid((args.rows.rows + kRowsPerBlock - 1) / kRowsPerBlock, "permute");
  permute_kernel<Unit><<<blocks, kThreads, 0, stream>>>(
      static_cast<const Unit*>(args.x.data), in_units(args.x.stride), args.row_tokens,
      static_cast<Unit*>(args.rows.data), in_units(args.rows.stride), args.rows.rows, in_units(args.x.cols));
  MOE_CUDA_CHECK(cudaGetLastError());
}

template <typename T, int V>
void launch_unpermute(const UnpermuteArgs& args, cudaStream_t stream) {
  using Sum = SumOf<T>;
  unpermute_kernel<T, V><<<grid(args.y.rows, "unpermute"), kThreads, 0, stream>>>(
      static_cast<const T*>(args.rows.data), args.rows.stride, args.slot_rows, args.slots,
      static_cast<const Sum*>(args.weights), static_cast<T*>(args.y.data), args.y.stride, args.y.cols);
  MOE_CUDA_CHECK(cudaGetLastError());
}

template <typename T, int V>
void launch_unpermute_gradient(const UnpermuteGradientArgs& args, cudaStream_t stream) {
  using Sum = SumOf<T>;
  const unsigned blocks = grid(args.dy.rows * args.slots, "unpermute_gradient");
  unpermute_gradient_kernel<T, V><<<blocks, kThreads, 0, stream>>>(
      static_cast<const T*>(args.dy.data), args.dy.stride, static_cast<const T*>(args.rows.data), args.rows.stride,
      args.slot_rows, args.slots, static_cast<const Sum*>(args.weights), static_cast<T*>(args.drows.data),
      args.drows.stride, static_cast<Sum*>(args.dweights), args.dy.cols);
  MOE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void permute_cuda(const PermuteArgs& args, cudaStream_t stream) {
  const auto fits = [&args](int64_t bytes) { return divides(bytes, args.x) && divides(bytes, args.rows); };
  if (fits(16)) {
    launch_permute<uint4>(args, stream);
  } else if (fits(8)) {
    launch_permute<uint2>(args, stream);
  } else if (fits(4)) {
    launch_permute<uint32_t>(args, stream);
  } else {
    launch_permute<uint16_t>(args, stream);
  }
}

void unpermute_cuda(const UnpermuteArgs& args, cudaStream_t stream) {
  with_type(args.y.dtype, [&]<typename T>(T) {
    with_pack<T>(are_wide(args.rows, args.y),
                 [&]<int V>(std::integral_constant<int, V>) { launch_unpermute<T, V>(args, stream); });
  });
}

void unpermute_gradient_cuda(const UnpermuteGradientArgs& args, cudaStream_t stream) {
  with_type(args.dy.dtype, [&]<typename T>(T) {
    with_pack<T>(are_wide(args.dy, args.rows, args.drows),
                 [&]<int V>(std::integral_constant<int, V>) { launch_unpermute_gradient<T, V>(args, stream); });
  });
}

}  // namespace moe::kernels
