#pragma once

#include <cstdint>

/// The decoder's operations on rows, on plain memory on the CPU: what model/ops puts autograd around. No Torch.
///
/// Numerics  T is float or double; sums within a row run over 16 lanes in a fixed order, the exponential is our own
/// (error below
///           2 units in the last place of a float; std::exp for double). So a row's bits depend on the row alone: not
///           on the rows beside it, the number of threads or the processor's vectors. Sums over rows go block by block
///           of 64 rows.
/// Threads   OpenMP over rows above a size where it pays; causal_softmax and its gradient run on the calling thread.
namespace moe::row_math {

/// Rows of `width` elements, `stride` apart.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  T* operator[](int64_t row) const { return data + row * stride; }
};

/// y = weight * (x * inverse), inverse[row] = 1 / sqrt(mean(x^2) + eps). y and x have stride `width`.
template <typename T>
void rms_norm(const T* x, const T* weight, double eps, int64_t rows, int64_t width, T* y, T* inverse);
/// dweight may be null.
template <typename T>
void rms_norm_gradient(const T* dy, const T* x, const T* weight, const T* inverse, int64_t rows, int64_t width, T* dx,
                       T* dweight);

/// y = weight * ((x - mean) * inverse) + bias, inverse[row] = 1 / sqrt(variance + eps).
template <typename T>
void layer_norm(const T* x, const T* weight, const T* bias, double eps, int64_t rows, int64_t width, T* y, T* mean,
                T* inverse);
/// dweight_dbias [2 * width]: the weight's gradient, then the bias's; may be null.
template <typename T>
void layer_norm_gradient(const T* dy, const T* x, const T* weight, const T* mean, const T* inverse, int64_t rows,
                         int64_t width, T* dx, T* dweight_dbias);

/// Sum of x^2 in double, of memory as it lies: nothing is copied. Lanes, then blocks of 2^15 elements, in a fixed
/// order.
template <typename T>
double sum_of_squares(const T* x, int64_t count);

/// y = silu(gate) * up.
template <typename T>
void swiglu(Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, T* y);
template <typename T>
void swiglu_gradient(const T* dy, Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t width, Rows<T> dgate,
                     Rows<T> dup);

/// y = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
template <typename T>
void gelu_new(const T* x, int64_t rows, int64_t width, T* y);
template <typename T>
void gelu_new_gradient(const T* dy, const T* x, int64_t rows, int64_t width, T* dx);

/// y += bias in each row.
template <typename T>
void add_bias(const T* bias, int64_t rows, int64_t width, T* y);
/// dbias = sum over rows of dy.
template <typename T>
void bias_gradient(Rows<const T> dy, int64_t rows, int64_t width, T* dbias);

/// Turns the pairs (j, j + half) of each head by the row's angles and passes the rest of the head through; cos and sin
/// [rows, half], 2 * half <= head_dim. `direction` -1 turns back.
template <typename T>
void rope(const T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t head_dim, int64_t half,
          int direction, T* y);

/// Scores of `rows` queries with `keys` keys each become probabilities: softmax of scale * score over the keys that
/// query first + row may see, [0, first + row], of these the last `window` (0: all), and 0 for the others; first + rows
/// <= keys. log_sums [rows].
template <typename T>
void causal_softmax(T* scores, int64_t keys, int64_t first, int64_t rows, int64_t window, T scale, T* log_sums);
/// Its gradient, the probabilities computed again: `scores` become them, and `dprobabilities` become the gradient of
/// the scores. dout . out of a query [rows, width], what attention took out of the values, is what the softmax's
/// gradient projects out.
template <typename T>
void causal_softmax_gradient(T* scores, T* dprobabilities, int64_t keys, int64_t first, int64_t rows, int64_t window,
                             T scale, const T* log_sums, const T* dout, const T* out, int64_t width);

/// losses[row] = log_sum[row] - logits[row][label], log_sum = log sum exp; 0 where the label is `ignored`.
template <typename T>
void cross_entropy(const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t width, T* losses,
                   T* log_sum);
/// dlogits = (softmax - one at the label) * dloss; may be the logits themselves.
template <typename T>
void cross_entropy_gradient(const T* dlosses, const T* logits, const T* log_sum, const int64_t* labels, int64_t ignored,
                            int64_t rows, int64_t width, T* dlogits);

}  // namespace moe::row_math
