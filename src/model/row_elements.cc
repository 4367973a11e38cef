#include <numbers>

#include "model/row_math.h"
#include "model/row_math_inline.h"

namespace moe::row_math {
namespace {

template <typename T>
MOE_INLINE T sigmoid(T x) {
  return T{1} / (T{1} + exponential(-x));
}

/// (1 + tanh(u)) / 2 = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3); kTwice = 2 sqrt(2 / pi).
template <typename T>
constexpr T kTwice = static_cast<T>(2 * 0.79788456080286535588);
template <typename T>
constexpr T kCubic = static_cast<T>(0.044715);

template <typename T>
MOE_WIDEST_VECTORS void swiglu_row(const T* __restrict gate, const T* __restrict up, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < width; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

template <typename T>
MOE_WIDEST_VECTORS void swiglu_row_gradient(const T* __restrict dy, const T* __restrict gate, const T* __restrict up,
                                            int64_t width, T* __restrict dgate, T* __restrict dup) {
  for (int64_t i = 0; i < width; ++i) {
    const T s = sigmoid(gate[i]), silu = gate[i] * s;
    dup[i] = dy[i] * silu;
    dgate[i] = dy[i] * up[i] * (s + silu * (T{1} - s));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void gelu_new_row(const T* __restrict x, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * sigmoid(kTwice<T> * (x[i] + kCubic<T> * (x[i] * x[i] * x[i])));
}

template <typename T>
MOE_WIDEST_VECTORS void gelu_new_row_gradient(const T* __restrict dy, const T* __restrict x, int64_t width,
                                              T* __restrict dx) {
  for (int64_t i = 0; i < width; ++i) {
    const T square = x[i] * x[i], s = sigmoid(kTwice<T> * (x[i] + kCubic<T> * (square * x[i])));
    const T inner = kTwice<T> * (T{1} + T{3} * kCubic<T> * square);
    dx[i] = dy[i] * (s + x[i] * (s * (T{1} - s)) * inner);
  }
}

template <typename T>
MOE_WIDEST_VECTORS void rope_row(const T* __restrict x, const T* __restrict cos, const T* __restrict sin, int64_t heads,
                                 int64_t head_dim, int64_t half, T sign, T* __restrict y) {
  for (int64_t head = 0; head < heads; ++head, x += head_dim, y += head_dim) {
    for (int64_t j = 0; j < half; ++j) {
      const T s = sign * sin[j], first = x[j], second = x[j + half];
      y[j] = first * cos[j] - second * s;
      y[j + half] = second * cos[j] + first * s;
    }
    for (int64_t j = 2 * half; j < head_dim; ++j) y[j] = x[j];
  }
}

template <typename T>
MOE_WIDEST_VECTORS void add_row(const T* __restrict bias, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < width; ++i) y[i] += bias[i];
}

template <typename T>
MOE_WIDEST_VECTORS double squares_of_block(const T* x, int64_t count) {
  return lane_sum<double>(count, [&](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

}  // namespace

template <typename T>
double sum_of_squares(const T* x, int64_t count) {
  constexpr int64_t kBlock = 1 << 15;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  for_each_row(blocks, kBlock, [&](int64_t block) {
    sums[static_cast<size_t>(block)] = squares_of_block(x + block * kBlock, std::min(kBlock, count - block * kBlock));
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

template <typename T>
void swiglu(Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, T* y) {
  for_each_row(rows, width, [&](int64_t row) { swiglu_row(gate[row], up[row], width, y + row * width); });
}

template <typename T>
void swiglu_gradient(const T* dy, Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, Rows<T> dgate,
                     Rows<T> dup) {
  for_each_row(rows, width, [&](int64_t row) {
    swiglu_row_gradient(dy + row * width, gate[row], up[row], width, dgate[row], dup[row]);
  });
}

template <typename T>
void gelu_new(const T* x, int64_t rows, int64_t width, T* y) {
  for_each_row(rows, width, [&](int64_t row) { gelu_new_row(x + row * width, width, y + row * width); });
}

template <typename T>
void gelu_new_gradient(const T* dy, const T* x, int64_t rows, int64_t width, T* dx) {
  for_each_row(rows, width,
               [&](int64_t row) { gelu_new_row_gradient(dy + row * width, x + row * width, width, dx + row * width); });
}

template <typename T>
void rope(const T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t head_dim, int64_t half,
          int direction, T* y) {
  const int64_t width = heads * head_dim;
  for_each_row(rows, width, [&](int64_t row) {
    rope_row(x + row * width, cos + row * half, sin + row * half, heads, head_dim, half, static_cast<T>(direction),
             y + row * width);
  });
}

template <typename T>
void add_bias(const T* bias, int64_t rows, int64_t width, T* y) {
  for_each_row(rows, width, [&](int64_t row) { add_row(bias, width, y + row * width); });
}

template <typename T>
void bias_gradient(Rows<const T> dy, int64_t rows, int64_t width, T* dbias) {
  sum_over_rows(rows, width, dbias, [&](int64_t row, T* sum) { add_row(dy[row], width, sum); });
}

#define MOE_ROW_ELEMENTS_FOR(T)                                                                                 \
  template double sum_of_squares<T>(const T*, int64_t);                                                         \
  template void swiglu<T>(Rows<const T>, Rows<const T>, int64_t, int64_t, T*);                                  \
  template void swiglu_gradient<T>(const T*, Rows<const T>, Rows<const T>, int64_t, int64_t, Rows<T>, Rows<T>); \
  template void gelu_new<T>(const T*, int64_t, int64_t, T*);                                                    \
  template void gelu_new_gradient<T>(const T*, const T*, int64_t, int64_t, T*);                                 \
  template void rope<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t, int64_t, int, T*);             \
  template void add_bias<T>(const T*, int64_t, int64_t, T*);                                                    \
  template void bias_gradient<T>(Rows<const T>, int64_t, int64_t, T*);
MOE_ROW_ELEMENTS_FOR(float)
MOE_ROW_ELEMENTS_FOR(double)

}  // namespace moe::row_math
