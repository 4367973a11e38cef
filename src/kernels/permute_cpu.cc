// Tokens to expert order and back on the CPU. T tokens, D hidden, K slots, R rows. Work is split by whole rows or
// tokens, so no bit depends on the number of threads.
#include <algorithm>
#include <array>
#include <cstring>

#include "common/error.h"
#include "kernels/cpu_kernels.h"
#include "kernels/row_loops.h"

namespace moe::kernels {
namespace {

/// Below this many elements that are moved a second thread costs more than it brings.
constexpr int64_t kParallelMoves = 1 << 15;

/// Columns summed at a time: small enough for the first-level cache, whole vectors of any width.
constexpr int64_t kChunk = 512;

void check_indices(const char* op, const char* name, const int64_t* indices, int64_t count, int64_t lowest,
                   int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] < lowest || indices[i] >= limit) {
      throw InvalidArgument(
          concat(op, ": ", name, "[", i, "] is ", indices[i], "; expected ", lowest, " to ", limit - 1));
    }
  }
}

/// sum[c] += weight * row[c], the product rounded first.
template <typename T, typename Sum>
MOE_WIDEST_VECTORS void add_scaled(Sum* __restrict sum, const T* __restrict row, Sum weight, int64_t size) {
  for (int64_t c = 0; c < size; ++c) {
    sum[c] += weight * static_cast<Sum>(row[c]);
  }
}

/// out[c] = weight * in[c], rounded to T.
template <typename T, typename From, typename Sum>
MOE_WIDEST_VECTORS void scale(T* __restrict out, const From* __restrict in, Sum weight, int64_t size) {
  for (int64_t c = 0; c < size; ++c) {
    out[c] = static_cast<T>(weight * static_cast<Sum>(in[c]));
  }
}

template <typename T>
void unpermute_rows(const UnpermuteArgs& args) {
  using Sum = SumOf<T>;
  const Sum* const weights = static_cast<const Sum*>(args.weights);
  const int64_t D = args.y.cols;
#pragma omp parallel for schedule(static) if (args.y.rows * D > kParallelMoves)
  for (int64_t t = 0; t < args.y.rows; ++t) {
    T* const y = static_cast<T*>(args.y.data) + t * args.y.stride;
    for (int64_t begin = 0; begin < D; begin += kChunk) {
      const int64_t size = std::min(kChunk, D - begin);
      std::array<Sum, kChunk> sum;
      std::fill_n(sum.data(), size, Sum{0});
      for (int64_t slot = t * args.slots; slot < (t + 1) * args.slots; ++slot) {
        if (args.slot_rows[slot] < 0) {
          continue;
        }
        const T* const row = static_cast<const T*>(args.rows.data) + args.slot_rows[slot] * args.rows.stride + begin;
        const Sum weight = weights == nullptr ? Sum{1} : weights[slot];
        add_scaled(sum.data(), row, weight, size);
      }
      scale(y + begin, sum.data(), Sum{1}, size);
    }
  }
}

template <typename T>
MOE_WIDEST_VECTORS SumOf<T> dot(const T* a, const T* b, int64_t size) {
  return lane_sum<SumOf<T>>(size, [=](int64_t i) { return widened(a[i]) * widened(b[i]); });
}

template <typename T>
void unpermute_gradient_rows(const UnpermuteGradientArgs& args) {
  using Sum = SumOf<T>;
  const Sum* const weights = static_cast<const Sum*>(args.weights);
  Sum* const dweights = static_cast<Sum*>(args.dweights);
  const int64_t D = args.dy.cols;
#pragma omp parallel for schedule(static) if (args.dy.rows * D > kParallelMoves)
  for (int64_t t = 0; t < args.dy.rows; ++t) {
    const T* const dy = static_cast<const T*>(args.dy.data) + t * args.dy.stride;
    for (int64_t slot = t * args.slots; slot < (t + 1) * args.slots; ++slot) {
      const int64_t r = args.slot_rows[slot];
      if (r >= 0) {
        T* const drow = static_cast<T*>(args.drows.data) + r * args.drows.stride;
        const Sum weight = weights == nullptr ? Sum{1} : weights[slot];
        scale(drow, dy, weight, D);
      }
      if (dweights != nullptr) {
        dweights[slot] = r < 0 ? Sum{0} : dot(dy, static_cast<const T*>(args.rows.data) + r * args.rows.stride, D);
      }
    }
  }
}

}  // namespace

void permute_cpu(const PermuteArgs& args) {
  check_indices("permute", "row_tokens", args.row_tokens, args.rows.rows, 0, args.x.rows);
  const int64_t size = dtype_size(args.x.dtype);
  const int64_t row_bytes = args.x.cols * size;
  if (row_bytes == 0) {
    return;
  }
#pragma omp parallel for schedule(static) if (args.rows.rows * args.x.cols > kParallelMoves)
  for (int64_t r = 0; r < args.rows.rows; ++r) {
    std::memcpy(static_cast<char*>(args.rows.data) + r * args.rows.stride * size,
                static_cast<const char*>(args.x.data) + args.row_tokens[r] * args.x.stride * size, row_bytes);
  }
}

void unpermute_cpu(const UnpermuteArgs& args) {
  check_indices("unpermute", "slot_rows", args.slot_rows, args.y.rows * args.slots, -1, args.rows.rows);
  switch (args.y.dtype) {
    case DType::kFloat32: return unpermute_rows<float>(args);
    case DType::kBFloat16: return unpermute_rows<BFloat16>(args);
    case DType::kFloat64: return unpermute_rows<double>(args);
  }
}

void unpermute_gradient_cpu(const UnpermuteGradientArgs& args) {
  check_indices("unpermute_gradient", "slot_rows", args.slot_rows, args.dy.rows * args.slots, -1, args.rows.rows);
  switch (args.dy.dtype) {
    case DType::kFloat32: return unpermute_gradient_rows<float>(args);
    case DType::kBFloat16: return unpermute_gradient_rows<BFloat16>(args);
    case DType::kFloat64: return unpermute_gradient_rows<double>(args);
  }
}

}  // namespace moe::kernels
