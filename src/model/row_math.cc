#include "model/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

/// Compiles a function for several widths of vectors; the processor's is taken when the program starts. All give the same
/// bits, since products and sums are never contracted and lanes are summed in the order that the source says.
#if defined(__x86_64__)
#define MOE_WIDEST_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOE_WIDEST_VECTORS
#endif
#define MOE_INLINE inline __attribute__((always_inline))

namespace moe::row_math {
namespace {

/// Below this many elements a second thread costs more than it brings.
constexpr int64_t kParallelElements = 1 << 14;
/// Partial sums of a row: a vector of 16 floats, on any processor.
constexpr int64_t kLanes = 16;
/// Rows whose weight gradients are summed together, before the blocks are.
constexpr int64_t kBlockRows = 64;

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
MOE_INLINE double exponential(double x) { return std::exp(x); }

template <typename T>
MOE_INLINE T sigmoid(T x) {
  return T{1} / (T{1} + exponential(-x));
}

/// Sum of term(i) for i in [0, width): lane i % 16 sums its own, then the lanes are added pairwise.
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
MOE_INLINE T largest(const T* row, int64_t width) {
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, row[0]);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
  }
  for (; i < width; ++i) lanes[0] = row[i] > lanes[0] ? row[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row(const T* __restrict x, const T* __restrict weight, T eps, int64_t width, T* __restrict y,
                                     T* __restrict inverse) {
  const T squares = lane_sum<T>(width, [x](int64_t i) { return x[i] * x[i]; });
  const T scale = T{1} / std::sqrt(squares / static_cast<T>(width) + eps);
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] * scale) * weight[i];
  *inverse = scale;
}

/// dweight_sum, if any, is added to.
template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row_gradient(const T* __restrict dy, const T* __restrict x, const T* __restrict weight, T inverse,
                                              int64_t width, T* __restrict dx, T* __restrict dweight_sum) {
  const T projection =
      lane_sum<T>(width, [=](int64_t i) { return (dy[i] * weight[i]) * (x[i] * inverse); }) / static_cast<T>(width);
  for (int64_t i = 0; i < width; ++i) dx[i] = (dy[i] * weight[i] - (x[i] * inverse) * projection) * inverse;
  if (dweight_sum == nullptr) return;
  for (int64_t i = 0; i < width; ++i) dweight_sum[i] += dy[i] * (x[i] * inverse);
}

template <typename T>
MOE_WIDEST_VECTORS void swiglu_row(const T* __restrict gate, const T* __restrict up, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < width; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

template <typename T>
MOE_WIDEST_VECTORS void swiglu_row_gradient(const T* __restrict dy, const T* __restrict gate, const T* __restrict up, int64_t width,
                                            T* __restrict dgate, T* __restrict dup) {
  for (int64_t i = 0; i < width; ++i) {
    const T s = sigmoid(gate[i]), silu = gate[i] * s;
    dup[i] = dy[i] * silu;
    dgate[i] = dy[i] * up[i] * (s + silu * (T{1} - s));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void rope_row(const T* __restrict x, const T* __restrict cos, const T* __restrict sin, int64_t heads, int64_t half,
                                 T sign, T* __restrict y) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
    for (int64_t j = 0; j < half; ++j) {
      const T s = sign * sin[j], first = x[j], second = x[j + half];
      y[j] = first * cos[j] - second * s;
      y[j + half] = second * cos[j] + first * s;
    }
  }
}

template <typename T>
MOE_WIDEST_VECTORS T log_sum_exp(const T* __restrict row, int64_t width) {
  const T top = largest(row, width);
  return top + std::log(lane_sum<T>(width, [=](int64_t i) { return exponential(row[i] - top); }));
}

template <typename T>
MOE_WIDEST_VECTORS void scaled_softmax(const T* row, T log_sum, T scale, int64_t width, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < width; ++i) out[i] = exponential(row[i] - log_sum) * scale;
}

/// The first `seen` of `width` scores become probabilities, the others 0. Returns the logarithm of the sum.
template <typename T>
MOE_WIDEST_VECTORS T masked_softmax_row(T* __restrict scores, T scale, int64_t seen, int64_t width) {
  const T top = scale * largest(scores, seen);
  for (int64_t i = 0; i < seen; ++i) scores[i] = exponential(scale * scores[i] - top);
  const T sum = lane_sum<T>(seen, [scores](int64_t i) { return scores[i]; }), inverse = T{1} / sum;
  for (int64_t i = 0; i < seen; ++i) scores[i] *= inverse;
  for (int64_t i = seen; i < width; ++i) scores[i] = T{0};
  return top + std::log(sum);
}

template <typename T>
MOE_WIDEST_VECTORS void masked_softmax_row_gradient(T* __restrict scores, T* __restrict dprobabilities, T scale, T log_sum,
                                                    const T* __restrict dout, const T* __restrict out, int64_t out_width,
                                                    int64_t seen, int64_t width) {
  const T projection = lane_sum<T>(out_width, [=](int64_t i) { return dout[i] * out[i]; });
  for (int64_t i = 0; i < seen; ++i) {
    const T probability = exponential(scale * scores[i] - log_sum);
    scores[i] = probability;
    dprobabilities[i] = probability * (dprobabilities[i] - projection) * scale;
  }
  for (int64_t i = seen; i < width; ++i) scores[i] = T{0};
  for (int64_t i = seen; i < width; ++i) dprobabilities[i] = T{0};
}

/// Calls body(row) for every row.
template <typename Body>
void for_each_row(int64_t rows, int64_t width, const Body& body) {
#pragma omp parallel for schedule(static) if (rows * width > kParallelElements)
  for (int64_t row = 0; row < rows; ++row) body(row);
}

}  // namespace

template <typename T>
void rms_norm(const T* x, const T* weight, double eps, int64_t rows, int64_t width, T* y, T* inverse) {
  for_each_row(rows, width, [&](int64_t row) {
    rms_norm_row(x + row * width, weight, static_cast<T>(eps), width, y + row * width, inverse + row);
  });
}

template <typename T>
void rms_norm_gradient(const T* dy, const T* x, const T* weight, const T* inverse, int64_t rows, int64_t width, T* dx, T* dweight) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  std::vector<T> sums(dweight != nullptr ? blocks * width : 0, T{0});
  for_each_row(blocks, width * kBlockRows, [&](int64_t block) {
    T* const sum = dweight != nullptr ? sums.data() + block * width : nullptr;
    for (int64_t row = block * kBlockRows; row < std::min(rows, (block + 1) * kBlockRows); ++row) {
      rms_norm_row_gradient(dy + row * width, x + row * width, weight, inverse[row], width, dx + row * width, sum);
    }
  });
  if (dweight == nullptr) return;
  std::fill_n(dweight, width, T{0});
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = 0; i < width; ++i) dweight[i] += sums[block * width + i];
  }
}

template <typename T>
void swiglu(Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, T* y) {
  for_each_row(rows, width, [&](int64_t row) { swiglu_row(gate[row], up[row], width, y + row * width); });
}

template <typename T>
void swiglu_gradient(const T* dy, Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, Rows<T> dgate, Rows<T> dup) {
  for_each_row(rows, width,
               [&](int64_t row) { swiglu_row_gradient(dy + row * width, gate[row], up[row], width, dgate[row], dup[row]); });
}

template <typename T>
void rope(const T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t half, int direction, T* y) {
  const int64_t width = heads * 2 * half;
  for_each_row(rows, width, [&](int64_t row) {
    rope_row(x + row * width, cos + row * half, sin + row * half, heads, half, static_cast<T>(direction), y + row * width);
  });
}

template <typename T>
void causal_softmax(T* scores, int64_t keys, int64_t first, int64_t rows, T scale, T* log_sums) {
  for (int64_t row = 0; row < rows; ++row) log_sums[row] = masked_softmax_row(scores + row * keys, scale, first + row + 1, keys);
}

template <typename T>
void causal_softmax_gradient(T* scores, T* dprobabilities, int64_t keys, int64_t first, int64_t rows, T scale, const T* log_sums,
                             const T* dout, const T* out, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    masked_softmax_row_gradient(scores + row * keys, dprobabilities + row * keys, scale, log_sums[row], dout + row * width,
                                out + row * width, width, first + row + 1, keys);
  }
}

template <typename T>
void cross_entropy(const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t width, T* losses, T* log_sum) {
  for_each_row(rows, width, [&](int64_t row) {
    log_sum[row] = labels[row] == ignored ? T{0} : log_sum_exp(logits + row * width, width);
    losses[row] = labels[row] == ignored ? T{0} : log_sum[row] - logits[row * width + labels[row]];
  });
}

template <typename T>
void cross_entropy_gradient(const T* dlosses, const T* logits, const T* log_sum, const int64_t* labels, int64_t ignored,
                            int64_t rows, int64_t width, T* dlogits) {
  for_each_row(rows, width, [&](int64_t row) {
    T* const out = dlogits + row * width;
    if (labels[row] == ignored) {
      std::fill_n(out, width, T{0});
      return;
    }
    scaled_softmax(logits + row * width, log_sum[row], dlosses[row], width, out);
    out[labels[row]] -= dlosses[row];
  });
}

#define MOE_ROW_MATH_FOR(T)                                                                                                  \
  template void rms_norm<T>(const T*, const T*, double, int64_t, int64_t, T*, T*);                                           \
  template void rms_norm_gradient<T>(const T*, const T*, const T*, const T*, int64_t, int64_t, T*, T*);                      \
  template void swiglu<T>(Rows<const T>, Rows<const T>, int64_t, int64_t, T*);                                               \
  template void swiglu_gradient<T>(const T*, Rows<const T>, Rows<const T>, int64_t, int64_t, Rows<T>, Rows<T>);              \
  template void rope<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t, int, T*);                                   \
  template void causal_softmax<T>(T*, int64_t, int64_t, int64_t, T, T*);                                                     \
  template void causal_softmax_gradient<T>(T*, T*, int64_t, int64_t, int64_t, T, const T*, const T*, const T*, int64_t);     \
  template void cross_entropy<T>(const T*, const int64_t*, int64_t, int64_t, int64_t, T*, T*);                               \
  template void cross_entropy_gradient<T>(const T*, const T*, const T*, const int64_t*, int64_t, int64_t, int64_t, T*);
MOE_ROW_MATH_FOR(float)
MOE_ROW_MATH_FOR(double)

}  // namespace moe::row_math
