// Softmax over rows on the CPU: of attention's scores, and inside the cross-entropy.
#include "kernels/softmax_cpu.h"

#include "common/error.h"
#include "kernels/cpu_kernels.h"
#include "kernels/row_loops.h"

namespace moe::kernels {
namespace {

template <typename T>
MOE_WIDEST_VECTORS SumOf<T> log_sum_exp(const T* __restrict row, int64_t width) {
  using S = SumOf<T>;
  const S top = largest(row, width);
  return top + std::log(lane_sum<S>(width, [=](int64_t i) { return exponential(widened(row[i]) - top); }));
}

template <typename T>
MOE_WIDEST_VECTORS void scaled_softmax(const T* row, SumOf<T> log_sum, SumOf<T> scale, int64_t width, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < width; ++i) out[i] = static_cast<T>(exponential(widened(row[i]) - log_sum) * scale);
}

/// The first `seen` of `width` scores become probabilities, the others 0. Returns the logarithm of the sum.
template <typename S>
MOE_WIDEST_VECTORS S masked_softmax_row(S* __restrict scores, S scale, int64_t seen, int64_t width) {
  const S top = scale * largest(scores, seen);
  for (int64_t i = 0; i < seen; ++i) scores[i] = exponential(scale * scores[i] - top);
  const S sum = lane_sum<S>(seen, [scores](int64_t i) { return scores[i]; }), inverse = S{1} / sum;
  for (int64_t i = 0; i < seen; ++i) scores[i] *= inverse;
  for (int64_t i = seen; i < width; ++i) scores[i] = S{0};
  return top + std::log(sum);
}

template <typename S>
MOE_WIDEST_VECTORS void masked_softmax_row_gradient(S* __restrict scores, S* __restrict dprobabilities, S scale,
                                                    S log_sum, const S* __restrict dout, const S* __restrict out,
                                                    int64_t out_width, int64_t seen, int64_t width) {
  const S projection = lane_sum<S>(out_width, [=](int64_t i) { return dout[i] * out[i]; });
  for (int64_t i = 0; i < seen; ++i) {
    const S probability = exponential(scale * scores[i] - log_sum);
    scores[i] = probability;
    dprobabilities[i] = probability * (dprobabilities[i] - projection) * scale;
  }
  for (int64_t i = seen; i < width; ++i) scores[i] = S{0};
  for (int64_t i = seen; i < width; ++i) dprobabilities[i] = S{0};
}

/// The first key that a query sees through its window; 0 is no window.
int64_t first_seen(int64_t query, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, query + 1 - window) : 0;
}

}  // namespace

template <typename S>
void causal_softmax(S* scores, int64_t keys, int64_t first, int64_t rows, int64_t window, S scale, S* log_sums) {
  for (int64_t row = 0; row < rows; ++row, scores += keys) {
    const int64_t from = first_seen(first + row, window);
    std::fill_n(scores, from, S{0});
    log_sums[row] = masked_softmax_row(scores + from, scale, first + row + 1 - from, keys - from);
  }
}

template <typename S>
void causal_softmax_gradient(S* scores, S* dprobabilities, int64_t keys, int64_t first, int64_t rows, int64_t window,
                             S scale, const S* log_sums, const S* dout, const S* out, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, scores += keys, dprobabilities += keys) {
    const int64_t from = first_seen(first + row, window);
    std::fill_n(scores, from, S{0});
    std::fill_n(dprobabilities, from, S{0});
    masked_softmax_row_gradient(scores + from, dprobabilities + from, scale, log_sums[row], dout + row * width,
                                out + row * width, width, first + row + 1 - from, keys - from);
  }
}

#define MOE_CAUSAL_SOFTMAX_FOR(S)                                                                             \
  template void causal_softmax<S>(S*, int64_t, int64_t, int64_t, int64_t, S, S*);                             \
  template void causal_softmax_gradient<S>(S*, S*, int64_t, int64_t, int64_t, int64_t, S, const S*, const S*, \
                                           const S*, int64_t);
MOE_CAUSAL_SOFTMAX_FOR(float)
MOE_CAUSAL_SOFTMAX_FOR(double)

void cross_entropy_cpu(const CrossEntropyArgs& args) {
  const int64_t width = args.logits.cols;
  const int64_t* const labels = args.labels;
  for (int64_t row = 0; row < args.logits.rows; ++row) {
    if (labels[row] != args.ignored && (labels[row] < 0 || labels[row] >= width)) {
      throw InvalidArgument(concat("cross_entropy: labels[", row, "] is ", labels[row], "; expected 0 to ", width - 1,
                                   ", or ", args.ignored, " for none"));
    }
  }
  with_type(args.logits.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto logits = rows_of<T>(args.logits);
    S *const losses = elements_of<S>(args.losses), *const log_sums = elements_of<S>(args.log_sums);
    for_each_row(args.logits.rows, width, [&](int64_t row) {
      log_sums[row] = labels[row] == args.ignored ? S{0} : log_sum_exp(logits[row], width);
      losses[row] = labels[row] == args.ignored ? S{0} : log_sums[row] - widened(logits[row][labels[row]]);
    });
  });
}

void cross_entropy_gradient_cpu(const CrossEntropyGradientArgs& args) {
  const int64_t width = args.logits.cols;
  const int64_t* const labels = args.labels;
  with_type(args.logits.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const auto logits = rows_of<T>(args.logits);
    const auto dlogits = rows_of<T>(args.dlogits);
    const S *const dlosses = elements_of<S>(args.dlosses), *const log_sums = elements_of<S>(args.log_sums);
    for_each_row(args.logits.rows, width, [&](int64_t row) {
      T* const out = dlogits[row];
      const int64_t label = labels[row];
      if (label == args.ignored) {
        std::fill_n(out, width, static_cast<T>(S{0}));
        return;
      }
      // Of the label the difference is rounded, not its parts: near a probability of 1 they would cancel in bf16.
      const S at_label = exponential(widened(logits[row][label]) - log_sums[row]) * dlosses[row] - dlosses[row];
      scaled_softmax(logits[row], log_sums[row], dlosses[row], width, out);
      out[label] = static_cast<T>(at_label);
    });
  });
}

}  // namespace moe::kernels
