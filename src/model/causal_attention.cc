#include "model/causal_attention.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <type_traits>

#include "kernels/matmul.h"
#include "model/row_math.h"

namespace moe {
namespace {

/// Rows of scores that are worked on together: queries of all heads that share keys, at least kLeastQueries of each.
constexpr int64_t kBlockRows = 256;
constexpr int64_t kLeastQueries = 32;
constexpr int64_t kMostQueries = 128;
/// Lengths are rounded up to this, with zeros: products are prepared per shape, and lengths are many. Not for double,
/// whose products are plain loops.
template <typename T>
constexpr int64_t kLengthStep = std::is_same_v<T, float> ? 32 : 1;

template <typename T>
constexpr kernels::DType kDType = std::is_same_v<T, float> ? kernels::DType::kFloat32 : kernels::DType::kFloat64;

/// A dense matrix that this thread owns.
template <typename T>
class Matrix {
 public:
  /// Contents undefined.
  void resize(int64_t rows, int64_t cols) {
    rows_ = rows;
    cols_ = cols;
    if (static_cast<int64_t>(memory_.size()) < rows * cols) memory_.resize(rows * cols);
  }
  /// Rows [first, first + rows): `valid` from memory where they lie `stride` apart, zeros behind them.
  void load(int64_t first, int64_t rows, const T* from, int64_t stride, int64_t valid) {
    for (int64_t row = 0; row < valid; ++row) std::copy_n(from + row * stride, cols_, (*this)[first + row]);
    std::fill((*this)[first + valid], (*this)[first + rows], T{0});
  }
  void fill_zero(int64_t rows, int64_t cols) {
    resize(rows, cols);
    std::fill_n(memory_.begin(), rows * cols, T{0});
  }
  /// Rows [first, first + rows), to where they lie `stride` apart.
  void store(int64_t first, int64_t rows, T* to, int64_t stride) {
    for (int64_t row = 0; row < rows; ++row) std::copy_n((*this)[first + row], cols_, to + row * stride);
  }
  /// Adds to the rows from `first` on.
  void add(int64_t first, const Matrix& other) {
    T* const to = (*this)[first];
    for (int64_t i = 0; i < other.rows_ * cols_; ++i) to[i] += other.memory_[i];
  }

  T* operator[](int64_t row) { return memory_.data() + row * cols_; }
  kernels::MatrixView view() { return part(0, rows_); }
  kernels::MatrixView part(int64_t first, int64_t rows) { return {(*this)[first], kDType<T>, rows, cols_, cols_}; }

 private:
  std::vector<T> memory_;
  int64_t rows_ = 0, cols_ = 0;
};

template <typename T>
int64_t rounded_up(int64_t length) {
  return (length + kLengthStep<T> - 1) / kLengthStep<T> * kLengthStep<T>;
}

/// A block of queries of one sequence, for all heads that share keys: query `begin` + i of the group's head g is row g
/// * rows + i, i < valid <= rows; they see keys [first_key, first_key + keys), rounded outwards.
struct QueryBlock {
  int64_t begin, valid, rows, first_key, keys;
};

/// Calls body(block) for the blocks of a sequence in order.
template <typename T, typename Body>
void for_each_block(int64_t length, int64_t group, int64_t window, const Body& body) {
  const int64_t padded = rounded_up<T>(length);
  const int64_t rows = std::min(padded, std::clamp(kBlockRows / group / 32 * 32, kLeastQueries, kMostQueries));
  for (int64_t begin = 0; begin < length; begin += rows) {
    const int64_t first_key =
        window > 0 ? std::max<int64_t>(0, begin + 1 - window) / kLengthStep<T> * kLengthStep<T> : 0;
    body(
        QueryBlock{begin, std::min(rows, length - begin), rows, first_key, std::min(padded, begin + rows) - first_key});
  }
}

/// Calls body(sequence, kv head) for all of them, each on one thread.
template <typename Body>
void for_each_task(const AttentionShape& shape, const Body& body) {
  const int64_t heads = shape.kv_heads, tasks = (static_cast<int64_t>(shape.cu_seqlens.size()) - 1) * heads;
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    try {
      body(static_cast<size_t>(task / heads), task % heads);
    } catch (...) {
#pragma omp critical(moe_attention_failure)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

/// What a thread works in; kept from task to task.
template <typename T>
struct Workspace {
  Matrix<T> q, k, v, out, scores;             // forward
  Matrix<T> dout, dscores, dq, dk, dv, part;  // backward

  /// One kv head of a sequence.
  void load_keys(const T* keys, const T* values, int64_t offset, int64_t stride, int64_t length, int64_t d) {
    const int64_t padded = rounded_up<T>(length);
    k.resize(padded, d);
    v.resize(padded, d);
    k.load(0, padded, keys + offset, stride, length);
    v.load(0, padded, values + offset, stride, length);
  }
};

template <typename T>
Workspace<T>& workspace() {
  thread_local Workspace<T> own;
  return own;
}

}  // namespace

template <typename T>
void causal_attention_forward(const AttentionShape& shape, const T* q, const T* k, const T* v, T* out, T* log_sums) {
  const int64_t d = shape.head_dim, tokens = shape.cu_seqlens.back(), group = shape.heads / shape.kv_heads;
  const int64_t q_stride = shape.heads * d, kv_stride = shape.kv_heads * d;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  for_each_task(shape, [&](size_t sequence, int64_t kv_head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    Workspace<T>& w = workspace<T>();
    w.load_keys(k, v, first * kv_stride + kv_head * d, kv_stride, length, d);
    for_each_block<T>(length, group, shape.window, [&](const QueryBlock& block) {
      const int64_t offset = (first + block.begin) * q_stride + kv_head * group * d;
      w.q.resize(group * block.rows, d);
      w.out.resize(group * block.rows, d);
      w.scores.resize(group * block.rows, block.keys);
      for (int64_t g = 0; g < group; ++g)
        w.q.load(g * block.rows, block.rows, q + offset + g * d, q_stride, block.valid);
      kernels::linear_forward(w.q.view(), w.k.part(block.first_key, block.keys), w.scores.view());
      for (int64_t g = 0; g < group; ++g) {
        row_math::causal_softmax(w.scores[g * block.rows], block.keys, block.begin - block.first_key, block.valid,
                                 shape.window, scale, log_sums + (kv_head * group + g) * tokens + first + block.begin);
      }
      kernels::linear_input_gradient(w.scores.view(), w.v.part(block.first_key, block.keys), w.out.view());  // P V
      for (int64_t g = 0; g < group; ++g) w.out.store(g * block.rows, block.valid, out + offset + g * d, q_stride);
    });
  });
}

template <typename T>
void causal_attention_backward(const AttentionShape& shape, const T* q, const T* k, const T* v, const T* out,
                               const T* log_sums, const T* dout, const AttentionGradients<T>& gradients) {
  const int64_t d = shape.head_dim, tokens = shape.cu_seqlens.back(), group = shape.heads / shape.kv_heads;
  const int64_t q_stride = shape.heads * d, kv_stride = shape.kv_heads * d;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  for_each_task(shape, [&](size_t sequence, int64_t kv_head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    const int64_t kv_offset = first * kv_stride + kv_head * d;
    Workspace<T>& w = workspace<T>();
    w.load_keys(k, v, kv_offset, kv_stride, length, d);
    w.dk.fill_zero(rounded_up<T>(length), d);
    w.dv.fill_zero(rounded_up<T>(length), d);
    for_each_block<T>(length, group, shape.window, [&](const QueryBlock& block) {
      const int64_t offset = (first + block.begin) * q_stride + kv_head * group * d;
      for (Matrix<T>* matrix : {&w.q, &w.out, &w.dout, &w.dq}) matrix->resize(group * block.rows, d);
      for (Matrix<T>* matrix : {&w.scores, &w.dscores}) matrix->resize(group * block.rows, block.keys);
      for (int64_t g = 0; g < group; ++g) {
        w.q.load(g * block.rows, block.rows, q + offset + g * d, q_stride, block.valid);
        w.out.load(g * block.rows, block.rows, out + offset + g * d, q_stride, block.valid);
        w.dout.load(g * block.rows, block.rows, dout + offset + g * d, q_stride, block.valid);
      }
      kernels::linear_forward(w.q.view(), w.k.part(block.first_key, block.keys), w.scores.view());
      kernels::linear_forward(w.dout.view(), w.v.part(block.first_key, block.keys), w.dscores.view());
      for (int64_t g = 0; g < group; ++g) {
        const int64_t row = g * block.rows;
        row_math::causal_softmax_gradient(
            w.scores[row], w.dscores[row], block.keys, block.begin - block.first_key, block.valid, shape.window, scale,
            log_sums + (kv_head * group + g) * tokens + first + block.begin, w.dout[row], w.out[row], d);
      }
      w.part.resize(block.keys, d);
      kernels::linear_weight_gradient(w.scores.view(), w.dout.view(), w.part.view());  // P^T dO, summed over the group
      w.dv.add(block.first_key, w.part);
      kernels::linear_weight_gradient(w.dscores.view(), w.q.view(), w.part.view());  // dS^T Q
      w.dk.add(block.first_key, w.part);
      kernels::linear_input_gradient(w.dscores.view(), w.k.part(block.first_key, block.keys), w.dq.view());
      for (int64_t g = 0; g < group; ++g)
        w.dq.store(g * block.rows, block.valid, gradients.dq + offset + g * d, q_stride);
    });
    w.dk.store(0, length, gradients.dk + kv_offset, kv_stride);
    w.dv.store(0, length, gradients.dv + kv_offset, kv_stride);
  });
}

#define MOE_CAUSAL_ATTENTION_FOR(T)                                                                                   \
  template void causal_attention_forward<T>(const AttentionShape&, const T*, const T*, const T*, T*, T*);             \
  template void causal_attention_backward<T>(const AttentionShape&, const T*, const T*, const T*, const T*, const T*, \
                                             const T*, const AttentionGradients<T>&);
MOE_CAUSAL_ATTENTION_FOR(float)
MOE_CAUSAL_ATTENTION_FOR(double)

}  // namespace moe
