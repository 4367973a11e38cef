// Operations on the elements of rows, and sums over rows, on the CPU.
#include "kernels/cpu_kernels.h"
#include "kernels/row_loops.h"

namespace moe::kernels {
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
  for (int64_t i = 0; i < width; ++i) {
    const SumOf<T> g = widened(gate[i]);
    y[i] = static_cast<T>(g * sigmoid(g) * widened(up[i]));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void swiglu_row_gradient(const T* __restrict dy, const T* __restrict gate, const T* __restrict up,
                                            int64_t width, T* __restrict dgate, T* __restrict dup) {
  using S = SumOf<T>;
  for (int64_t i = 0; i < width; ++i) {
    const S g = widened(gate[i]), s = sigmoid(g), silu = g * s;
    dup[i] = static_cast<T>(widened(dy[i]) * silu);
    dgate[i] = static_cast<T>(widened(dy[i]) * widened(up[i]) * (s + silu * (S{1} - s)));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void gelu_new_row(const T* __restrict in, int64_t width, T* __restrict y) {
  using S = SumOf<T>;
  for (int64_t i = 0; i < width; ++i) {
    const S x = widened(in[i]);
    y[i] = static_cast<T>(x * sigmoid(kTwice<S> * (x + kCubic<S> * (x * x * x))));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void gelu_new_row_gradient(const T* __restrict dy, const T* __restrict in, int64_t width,
                                              T* __restrict dx) {
  using S = SumOf<T>;
  for (int64_t i = 0; i < width; ++i) {
    const S x = widened(in[i]), square = x * x, s = sigmoid(kTwice<S> * (x + kCubic<S> * (square * x)));
    const S inner = kTwice<S> * (S{1} + S{3} * kCubic<S> * square);
    dx[i] = static_cast<T>(widened(dy[i]) * (s + x * (s * (S{1} - s)) * inner));
  }
}

template <typename T>
MOE_WIDEST_VECTORS void rope_row(const T* __restrict x, const SumOf<T>* __restrict cos, const SumOf<T>* __restrict sin,
                                 int64_t heads, int64_t head_dim, int64_t half, SumOf<T> sign, T* __restrict y) {
  using S = SumOf<T>;
  for (int64_t head = 0; head < heads; ++head, x += head_dim, y += head_dim) {
    for (int64_t j = 0; j < half; ++j) {
      const S s = sign * sin[j], first = widened(x[j]), second = widened(x[j + half]);
      y[j] = static_cast<T>(first * cos[j] - second * s);
      y[j + half] = static_cast<T>(second * cos[j] + first * s);
    }
    for (int64_t j = 2 * half; j < head_dim; ++j) y[j] = x[j];
  }
}

template <typename T, typename Y>
MOE_WIDEST_VECTORS void add_row(const T* __restrict row, int64_t width, Y* __restrict y) {
  for (int64_t i = 0; i < width; ++i) y[i] = static_cast<Y>(widened(y[i]) + widened(row[i]));
}

template <typename T>
MOE_WIDEST_VECTORS double squares_of_block(const T* x, int64_t count) {
  return lane_sum<double>(
      count, [&](int64_t i) { return static_cast<double>(widened(x[i])) * static_cast<double>(widened(x[i])); });
}

}  // namespace

void swiglu_cpu(const SwigluArgs& args) {
  const int64_t width = args.y.cols;
  with_type(args.y.dtype, [&]<typename T>(T) {
    const auto gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
    const auto y = rows_of<T>(args.y);
    for_each_row(args.y.rows, width, [&](int64_t row) { swiglu_row(gate[row], up[row], width, y[row]); });
  });
}

void swiglu_gradient_cpu(const SwigluGradientArgs& args) {
  const int64_t width = args.dy.cols;
  with_type(args.dy.dtype, [&]<typename T>(T) {
    const auto dy = rows_of<T>(args.dy), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
    const auto dgate = rows_of<T>(args.dgate), dup = rows_of<T>(args.dup);
    for_each_row(args.dy.rows, width,
                 [&](int64_t row) { swiglu_row_gradient(dy[row], gate[row], up[row], width, dgate[row], dup[row]); });
  });
}

void gelu_new_cpu(const GeluNewArgs& args) {
  const int64_t width = args.y.cols;
  with_type(args.y.dtype, [&]<typename T>(T) {
    const auto x = rows_of<T>(args.x);
    const auto y = rows_of<T>(args.y);
    for_each_row(args.y.rows, width, [&](int64_t row) { gelu_new_row(x[row], width, y[row]); });
  });
}

void gelu_new_gradient_cpu(const GeluNewGradientArgs& args) {
  const int64_t width = args.dx.cols;
  with_type(args.dx.dtype, [&]<typename T>(T) {
    const auto dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
    const auto dx = rows_of<T>(args.dx);
    for_each_row(args.dx.rows, width, [&](int64_t row) { gelu_new_row_gradient(dy[row], x[row], width, dx[row]); });
  });
}

void rope_cpu(const RopeArgs& args) {
  const int64_t width = args.x.cols, head_dim = width / args.heads, half = args.cos.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto x = rows_of<T>(args.x);
    const auto cos = rows_of<S>(args.cos), sin = rows_of<S>(args.sin);
    const auto y = rows_of<T>(args.y);
    for_each_row(args.x.rows, width, [&](int64_t row) {
      rope_row(x[row], cos[row], sin[row], args.heads, head_dim, half, static_cast<S>(args.direction), y[row]);
    });
  });
}

void add_bias_cpu(const AddBiasArgs& args) {
  const int64_t width = args.y.cols;
  with_type(args.y.dtype, [&]<typename T>(T) {
    const T* const bias = elements_of<T>(args.bias);
    const auto y = rows_of<T>(args.y);
    for_each_row(args.y.rows, width, [&](int64_t row) { add_row(bias, width, y[row]); });
  });
}

void sum_rows_cpu(const SumRowsArgs& args) {
  const int64_t width = args.x.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    const auto x = rows_of<T>(args.x);
    sum_over_rows(args.x.rows, width, elements_of<T>(args.sum),
                  [&](int64_t row, SumOf<T>* sum) { add_row(x[row], width, sum); });
  });
}

void sum_of_squares_cpu(const SumOfSquaresArgs& args) {
  constexpr int64_t kBlock = 1 << 15;
  const int64_t count = args.x.size, blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  with_type(args.x.dtype, [&]<typename T>(T) {
    const T* const x = elements_of<T>(args.x);
    for_each_row(blocks, kBlock, [&](int64_t block) {
      sums[static_cast<size_t>(block)] = squares_of_block(x + block * kBlock, std::min(kBlock, count - block * kBlock));
    });
  });
  *args.sum = 0;
  for (const double sum : sums) *args.sum += sum;
}

}  // namespace moe::kernels
