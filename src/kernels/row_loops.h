#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/views.h"

/// What the CPU's loops over rows share: element types, vectors, the exponential, sums within a row and over rows. For
/// the files *_cpu.cc alone. T is the type of elements as they lie, SumOf<T> the one that is computed in.

/// Compiles a function for several widths of vectors; the processor's is taken when the program starts. All give the
/// same bits, since products and sums are never contracted and lanes are summed in the order that the source says.
#if defined(__x86_64__)
#define MOE_WIDEST_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOE_WIDEST_VECTORS
#endif
#define MOE_INLINE inline __attribute__((always_inline))

namespace moe::kernels {

/// Below this many elements a second thread costs more than it brings.
constexpr int64_t kParallelElements = 1 << 14;
/// Partial sums of a row: a vector of 16 floats, on any processor.
constexpr int64_t kLanes = 16;
/// Rows whose weight gradients are summed together, before the blocks are.
constexpr int64_t kBlockRows = 64;

template <typename T>
using SumOf = typename Accumulate<T>::Type;

template <typename T>
MOE_INLINE SumOf<T> widened(T x) {
  return static_cast<SumOf<T>>(x);
}

/// Calls body(T{}) with the element type of dtype.
template <typename Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32: return body(float{});
    case DType::kBFloat16: return body(BFloat16{});
    case DType::kFloat64: return body(double{});
  }
}

/// The rows of a matrix of T.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  T* operator[](int64_t row) const { return data + row * stride; }
};
template <typename T>
Rows<const T> rows_of(const ConstMatrixView& view) {
  return {static_cast<const T*>(view.data), view.stride};
}
template <typename T>
Rows<T> rows_of(const MatrixView& view) {
  return {static_cast<T*>(view.data), view.stride};
}
template <typename T>
const T* elements_of(const ConstVectorView& view) {
  return static_cast<const T*>(view.data);
}
template <typename T>
T* elements_of(const VectorView& view) {
  return static_cast<T*>(view.data);
}

/// exp(x) by 2^n * p(r), x = n ln 2 + r; ends at the smallest and largest normal floats.
/// Source   Cephes expf (Moshier), its polynomial and split of ln 2.
MOE_INLINE float exponential(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  constexpr float kRounder = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = x * 1.44269504088896341f + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) << 23;  // n * 2^23, its upper bits shifted out
  return std::bit_cast<float>(std::bit_cast<int32_t>(p) + exponent);
}
MOE_INLINE double exponential(double x) {
  return std::exp(x);
}

/// Sum of term(i) for i in [0, width): lane i % 16 sums its own, then the lanes are added pairwise. Written out, since
/// a compiler that may reorder a sum orders it by the vectors of the processor, and the same row would differ between
/// two.
template <typename T, typename Term>
MOE_INLINE T lane_sum(int64_t width, const Term& term) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int64_t lane = 0; i + lane < width; ++lane) lanes[lane] += term(i + lane);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
MOE_INLINE SumOf<T> largest(const T* row, int64_t width) {
  using S = SumOf<T>;
  S lanes[kLanes];
  std::fill_n(lanes, kLanes, widened(row[0]));
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const S value = widened(row[i + lane]);
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  }
  for (; i < width; ++i) lanes[0] = widened(row[i]) > lanes[0] ? widened(row[i]) : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

/// Calls body(row) for every row.
template <typename Body>
void for_each_row(int64_t rows, int64_t width, const Body& body) {
#pragma omp parallel for schedule(static) if (rows * width > kParallelElements)
  for (int64_t row = 0; row < rows; ++row) body(row);
}

/// Calls body(row, sum) for every row, where sum [width] starts at 0 for each block of rows and body adds to it;
/// `total` becomes the sum of the blocks in order, rounded to T. Without a total, sum is null. Blocks are cut by rows
/// and not by threads: a sum per thread would have other bits on another number of them.
template <typename T, typename Body>
void sum_over_rows(int64_t rows, int64_t width, T* total, const Body& body) {
  using S = SumOf<T>;
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  std::vector<S> sums(total != nullptr ? blocks * width : 0, S{0});
  for_each_row(blocks, width * kBlockRows, [&](int64_t block) {
    S* const sum = total != nullptr ? sums.data() + block * width : nullptr;
    for (int64_t row = block * kBlockRows; row < std::min(rows, (block + 1) * kBlockRows); ++row) body(row, sum);
  });
  if (total == nullptr) return;
  std::vector<S> all(width, S{0});
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = 0; i < width; ++i) all[i] += sums[block * width + i];
  }
  for (int64_t i = 0; i < width; ++i) total[i] = static_cast<T>(all[i]);
}

}  // namespace moe::kernels
