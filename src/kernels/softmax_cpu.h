#pragma once

#include <cstdint>

/// The softmax of attention on the CPU, for attention_cpu.cc. S is float or double, in which scores are kept whatever
/// the dtype of queries and keys. Runs on the calling thread.
namespace moe::kernels {

/// Scores of `rows` queries with `keys` keys each become probabilities: softmax of scale * score over the keys that
/// query first + row may see, [0, first + row], of these the last `window` (0: all), and 0 for the others; first + rows
/// <= keys. log_sums [rows].
template <typename S>
void causal_softmax(S* scores, int64_t keys, int64_t first, int64_t rows, int64_t window, S scale, S* log_sums);

/// Its gradient, the probabilities computed again: `scores` become them, and `dprobabilities` become the gradient of
/// the scores. dout . out of a query [rows, width], what attention took out of the values, is what the softmax's
/// gradient projects out.
template <typename S>
void causal_softmax_gradient(S* scores, S* dprobabilities, int64_t keys, int64_t first, int64_t rows, int64_t window,
                             S scale, const S* log_sums, const S* dout, const S* out, int64_t width);

}  // namespace moe::kernels
