// Norms of rows and their gradients on the CPU.
#include "kernels/cpu_kernels.h"
#include "kernels/row_loops.h"

namespace moe::kernels {
namespace {

template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row(const T* __restrict x, const T* __restrict weight, SumOf<T> eps, int64_t width,
                                     T* __restrict y, SumOf<T>* __restrict inverse) {
  using S = SumOf<T>;
  const S squares = lane_sum<S>(width, [x](int64_t i) { return widened(x[i]) * widened(x[i]); });
  const S scale = S{1} / std::sqrt(squares / static_cast<S>(width) + eps);
  for (int64_t i = 0; i < width; ++i) y[i] = static_cast<T>((widened(x[i]) * scale) * widened(weight[i]));
  *inverse = scale;
}

/// dweight_sum, if any, is added to.
template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row_gradient(const T* __restrict dy, const T* __restrict x, const T* __restrict weight,
                                              SumOf<T> inverse, int64_t width, T* __restrict dx,
                                              SumOf<T>* __restrict dweight_sum) {
  using S = SumOf<T>;
  const S projection =
      lane_sum<S>(width, [=](int64_t i) { return (widened(dy[i]) * widened(weight[i])) * (widened(x[i]) * inverse); }) /
      static_cast<S>(width);
  for (int64_t i = 0; i < width; ++i) {
    dx[i] = static_cast<T>((widened(dy[i]) * widened(weight[i]) - (widened(x[i]) * inverse) * projection) * inverse);
  }
  if (dweight_sum == nullptr) return;
  for (int64_t i = 0; i < width; ++i) dweight_sum[i] += widened(dy[i]) * (widened(x[i]) * inverse);
}

template <typename T>
MOE_WIDEST_VECTORS void layer_norm_row(const T* __restrict x, const T* __restrict weight, const T* __restrict bias,
                                       SumOf<T> eps, int64_t width, T* __restrict y, SumOf<T>* __restrict mean_out,
                                       SumOf<T>* __restrict inverse) {
  using S = SumOf<T>;
  const S mean = lane_sum<S>(width, [x](int64_t i) { return widened(x[i]); }) / static_cast<S>(width);
  const S squares = lane_sum<S>(width, [=](int64_t i) { return (widened(x[i]) - mean) * (widened(x[i]) - mean); });
  const S scale = S{1} / std::sqrt(squares / static_cast<S>(width) + eps);
  for (int64_t i = 0; i < width; ++i) {
    y[i] = static_cast<T>(((widened(x[i]) - mean) * scale) * widened(weight[i]) + widened(bias[i]));
  }
  *mean_out = mean;
  *inverse = scale;
}

/// sums, if any: the weight's gradient and behind it the bias's, which are added to.
template <typename T>
MOE_WIDEST_VECTORS void layer_norm_row_gradient(const T* __restrict dy, const T* __restrict x,
                                                const T* __restrict weight, SumOf<T> mean, SumOf<T> inverse,
                                                int64_t width, T* __restrict dx, SumOf<T>* __restrict sums) {
  using S = SumOf<T>;
  const S shift =
      lane_sum<S>(width, [=](int64_t i) { return widened(dy[i]) * widened(weight[i]); }) / static_cast<S>(width);
  const S projection = lane_sum<S>(width,
                                   [=](int64_t i) {
                                     return (widened(dy[i]) * widened(weight[i])) * ((widened(x[i]) - mean) * inverse);
                                   }) /
                       static_cast<S>(width);
  for (int64_t i = 0; i < width; ++i) {
    dx[i] = static_cast<T>(
        ((widened(dy[i]) * widened(weight[i]) - shift) - ((widened(x[i]) - mean) * inverse) * projection) * inverse);
  }
  if (sums == nullptr) return;
  for (int64_t i = 0; i < width; ++i) sums[i] += widened(dy[i]) * ((widened(x[i]) - mean) * inverse);
  for (int64_t i = 0; i < width; ++i) sums[width + i] += widened(dy[i]);
}

}  // namespace

void rms_norm_cpu(const RmsNormArgs& args) {
  const int64_t width = args.x.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto x = rows_of<T>(args.x);
    const auto y = rows_of<T>(args.y);
    const T* const weight = elements_of<T>(args.weight);
    S* const inverse = elements_of<S>(args.inverse);
    for_each_row(args.x.rows, width, [&](int64_t row) {
      rms_norm_row(x[row], weight, static_cast<S>(args.eps), width, y[row], inverse + row);
    });
  });
}

void rms_norm_gradient_cpu(const RmsNormGradientArgs& args) {
  const int64_t width = args.x.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
    const auto dx = rows_of<T>(args.dx);
    const T* const weight = elements_of<T>(args.weight);
    const S* const inverse = elements_of<S>(args.inverse);
    sum_over_rows(args.x.rows, width, elements_of<T>(args.dweight), [&](int64_t row, S* sum) {
      rms_norm_row_gradient(dy[row], x[row], weight, inverse[row], width, dx[row], sum);
    });
  });
}

void layer_norm_cpu(const LayerNormArgs& args) {
  const int64_t width = args.x.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto x = rows_of<T>(args.x);
    const auto y = rows_of<T>(args.y);
    const T *const weight = elements_of<T>(args.weight), *const bias = elements_of<T>(args.bias);
    S *const mean = elements_of<S>(args.mean), *const inverse = elements_of<S>(args.inverse);
    for_each_row(args.x.rows, width, [&](int64_t row) {
      layer_norm_row(x[row], weight, bias, static_cast<S>(args.eps), width, y[row], mean + row, inverse + row);
    });
  });
}

void layer_norm_gradient_cpu(const LayerNormGradientArgs& args) {
  const int64_t width = args.x.cols;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
    const auto dx = rows_of<T>(args.dx);
    const T* const weight = elements_of<T>(args.weight);
    const S *const mean = elements_of<S>(args.mean), *const inverse = elements_of<S>(args.inverse);
    sum_over_rows(args.x.rows, 2 * width, elements_of<T>(args.dweight_dbias), [&](int64_t row, S* sums) {
      layer_norm_row_gradient(dy[row], x[row], weight, mean[row], inverse[row], width, dx[row], sums);
    });
  });
}

}  // namespace moe::kernels
