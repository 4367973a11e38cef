#include "model/row_math.h"
#include "model/row_math_inline.h"

namespace moe::row_math {
namespace {

template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row(const T* __restrict x, const T* __restrict weight, T eps, int64_t width,
                                     T* __restrict y, T* __restrict inverse) {
  const T squares = lane_sum<T>(width, [x](int64_t i) { return x[i] * x[i]; });
  const T scale = T{1} / std::sqrt(squares / static_cast<T>(width) + eps);
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] * scale) * weight[i];
  *inverse = scale;
}

/// dweight_sum, if any, is added to.
template <typename T>
MOE_WIDEST_VECTORS void rms_norm_row_gradient(const T* __restrict dy, const T* __restrict x, const T* __restrict weight,
                                              T inverse, int64_t width, T* __restrict dx, T* __restrict dweight_sum) {
  const T projection =
      lane_sum<T>(width, [=](int64_t i) { return (dy[i] * weight[i]) * (x[i] * inverse); }) / static_cast<T>(width);
  for (int64_t i = 0; i < width; ++i) dx[i] = (dy[i] * weight[i] - (x[i] * inverse) * projection) * inverse;
  if (dweight_sum == nullptr) return;
  for (int64_t i = 0; i < width; ++i) dweight_sum[i] += dy[i] * (x[i] * inverse);
}

template <typename T>
MOE_WIDEST_VECTORS void layer_norm_row(const T* __restrict x, const T* __restrict weight, const T* __restrict bias,
                                       T eps, int64_t width, T* __restrict y, T* __restrict mean_out,
                                       T* __restrict inverse) {
  const T mean = lane_sum<T>(width, [x](int64_t i) { return x[i]; }) / static_cast<T>(width);
  const T squares = lane_sum<T>(width, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const T scale = T{1} / std::sqrt(squares / static_cast<T>(width) + eps);
  for (int64_t i = 0; i < width; ++i) y[i] = ((x[i] - mean) * scale) * weight[i] + bias[i];
  *mean_out = mean;
  *inverse = scale;
}

/// sums, if any: the weight's gradient and behind it the bias's, which are added to.
template <typename T>
MOE_WIDEST_VECTORS void layer_norm_row_gradient(const T* __restrict dy, const T* __restrict x,
                                                const T* __restrict weight, T mean, T inverse, int64_t width,
                                                T* __restrict dx, T* __restrict sums) {
  const T shift = lane_sum<T>(width, [=](int64_t i) { return dy[i] * weight[i]; }) / static_cast<T>(width);
  const T projection = lane_sum<T>(width, [=](int64_t i) { return (dy[i] * weight[i]) * ((x[i] - mean) * inverse); }) /
                       static_cast<T>(width);
  for (int64_t i = 0; i < width; ++i)
    dx[i] = ((dy[i] * weight[i] - shift) - ((x[i] - mean) * inverse) * projection) * inverse;
  if (sums == nullptr) return;
  for (int64_t i = 0; i < width; ++i) sums[i] += dy[i] * ((x[i] - mean) * inverse);
  for (int64_t i = 0; i < width; ++i) sums[width + i] += dy[i];
}

}  // namespace

template <typename T>
void rms_norm(const T* x, const T* weight, double eps, int64_t rows, int64_t width, T* y, T* inverse) {
  for_each_row(rows, width, [&](int64_t row) {
    rms_norm_row(x + row * width, weight, static_cast<T>(eps), width, y + row * width, inverse + row);
  });
}

template <typename T>
void rms_norm_gradient(const T* dy, const T* x, const T* weight, const T* inverse, int64_t rows, int64_t width, T* dx,
                       T* dweight) {
  sum_over_rows(rows, width, dweight, [&](int64_t row, T* sum) {
    rms_norm_row_gradient(dy + row * width, x + row * width, weight, inverse[row], width, dx + row * width, sum);
  });
}

template <typename T>
void layer_norm(const T* x, const T* weight, const T* bias, double eps, int64_t rows, int64_t width, T* y, T* mean,
                T* inverse) {
  for_each_row(rows, width, [&](int64_t row) {
    layer_norm_row(x + row * width, weight, bias, static_cast<T>(eps), width, y + row * width, mean + row,
                   inverse + row);
  });
}

template <typename T>
void layer_norm_gradient(const T* dy, const T* x, const T* weight, const T* mean, const T* inverse, int64_t rows,
                         int64_t width, T* dx, T* dweight_dbias) {
  sum_over_rows(rows, 2 * width, dweight_dbias, [&](int64_t row, T* sums) {
    layer_norm_row_gradient(dy + row * width, x + row * width, weight, mean[row], inverse[row], width, dx + row * width,
                            sums);
  });
}

#define MOE_ROW_NORMS_FOR(T)                                                                            \
  template void rms_norm<T>(const T*, const T*, double, int64_t, int64_t, T*, T*);                      \
  template void rms_norm_gradient<T>(const T*, const T*, const T*, const T*, int64_t, int64_t, T*, T*); \
  template void layer_norm<T>(const T*, const T*, const T*, double, int64_t, int64_t, T*, T*, T*);      \
  template void layer_norm_gradient<T>(const T*, const T*, const T*, const T*, const T*, int64_t, int64_t, T*, T*);
MOE_ROW_NORMS_FOR(float)
MOE_ROW_NORMS_FOR(double)

}  // namespace moe::row_math
