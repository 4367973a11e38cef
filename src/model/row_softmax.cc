#include "model/row_math.h"
#include "model/row_math_inline.h"

namespace moe::row_math {
namespace {

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
MOE_WIDEST_VECTORS void masked_softmax_row_gradient(T* __restrict scores, T* __restrict dprobabilities, T scale,
                                                    T log_sum, const T* __restrict dout, const T* __restrict out,
                                                    int64_t out_width, int64_t seen, int64_t width) {
  const T projection = lane_sum<T>(out_width, [=](int64_t i) { return dout[i] * out[i]; });
  for (int64_t i = 0; i < seen; ++i) {
    const T probability = exponential(scale * scores[i] - log_sum);
    scores[i] = probability;
    dprobabilities[i] = probability * (dprobabilities[i] - projection) * scale;
  }
  for (int64_t i = seen; i < width; ++i) scores[i] = T{0};
  for (int64_t i = seen; i < width; ++i) dprobabilities[i] = T{0};
}

/// The first key that a query sees through its window; 0 is no window.
int64_t first_seen(int64_t query, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, query + 1 - window) : 0;
}

}  // namespace

template <typename T>
void causal_softmax(T* scores, int64_t keys, int64_t first, int64_t rows, int64_t window, T scale, T* log_sums) {
  for (int64_t row = 0; row < rows; ++row, scores += keys) {
    const int64_t from = first_seen(first + row, window);
    std::fill_n(scores, from, T{0});
    log_sums[row] = masked_softmax_row(scores + from, scale, first + row + 1 - from, keys - from);
  }
}

template <typename T>
void causal_softmax_gradient(T* scores, T* dprobabilities, int64_t keys, int64_t first, int64_t rows, int64_t window,
                             T scale, const T* log_sums, const T* dout, const T* out, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, scores += keys, dprobabilities += keys) {
    const int64_t from = first_seen(first + row, window);
    std::fill_n(scores, from, T{0});
    std::fill_n(dprobabilities, from, T{0});
    masked_softmax_row_gradient(scores + from, dprobabilities + from, scale, log_sums[row], dout + row * width,
                                out + row * width, width, first + row + 1 - from, keys - from);
  }
}

template <typename T>
void cross_entropy(const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t width, T* losses,
                   T* log_sum) {
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

#define MOE_ROW_SOFTMAX_FOR(T)                                                                                \
  template void causal_softmax<T>(T*, int64_t, int64_t, int64_t, int64_t, T, T*);                             \
  template void causal_softmax_gradient<T>(T*, T*, int64_t, int64_t, int64_t, int64_t, T, const T*, const T*, \
                                           const T*, int64_t);                                                \
  template void cross_entropy<T>(const T*, const int64_t*, int64_t, int64_t, int64_t, T*, T*);                \
  template void cross_entropy_gradient<T>(const T*, const T*, const T*, const int64_t*, int64_t, int64_t, int64_t, T*);
MOE_ROW_SOFTMAX_FOR(float)
MOE_ROW_SOFTMAX_FOR(double)

}  // namespace moe::row_math
