#include "model/causal_attention.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <type_traits>

#include "kernels/matmul.h"
#include "model/row_math.h"

namespace moe {
namespace {

/// Queries that are worked on together.
constexpr int64_t kBlock = 128;
/// Lengths are rounded up to this, with zeros: products are prepared per shape, and lengths are many. Not for double, whose
/// products are plain loops.
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
  /// `valid` rows from memory where they lie `stride` apart, zeros behind them.
  void load(const T* from, int64_t stride, int64_t valid, int64_t rows, int64_t cols) {
    resize(rows, cols);
    for (int64_t row = 0; row < valid; ++row) std::copy_n(from + row * stride, cols, (*this)[row]);
    std::fill(memory_.begin() + valid * cols, memory_.begin() + rows * cols, T{0});
  }
  void fill_zero(int64_t rows, int64_t cols) {
    resize(rows, cols);
    std::fill_n(memory_.begin(), rows * cols, T{0});
  }
  /// Its first `rows` rows, to where they lie `stride` apart.
  void store(T* to, int64_t stride, int64_t rows) const {
    for (int64_t row = 0; row < rows; ++row) std::copy_n(memory_.data() + row * cols_, cols_, to + row * stride);
  }
  /// Adds to its first rows.
  void add(const Matrix& other) {
    for (int64_t i = 0; i < other.rows_ * cols_; ++i) memory_[i] += other.memory_[i];
  }

  T* operator[](int64_t row) { return memory_.data() + row * cols_; }
  kernels::MatrixView view() { return first(rows_); }
  kernels::MatrixView first(int64_t rows) { return {memory_.data(), kDType<T>, rows, cols_, cols_}; }

 private:
  std::vector<T> memory_;
  int64_t rows_ = 0, cols_ = 0;
};

template <typename T>
int64_t rounded_up(int64_t length) {
  return (length + kLengthStep<T> - 1) / kLengthStep<T> * kLengthStep<T>;
}

/// A block of queries of one sequence: rows [begin, begin + valid) see keys [0, keys), both rounded up.
struct QueryBlock {
  int64_t begin, valid, rows, keys;
};

/// Calls body(block) for the blocks of a sequence in order.
template <typename T, typename Body>
void for_each_block(int64_t length, const Body& body) {
  const int64_t padded = rounded_up<T>(length), rows = std::min(kBlock, padded);
  for (int64_t begin = 0; begin < length; begin += rows) {
    body(QueryBlock{begin, std::min(rows, length - begin), rows, std::min(padded, begin + rows)});
  }
}

/// Calls body(sequence, head) for `heads` of every sequence, each on one thread.
template <typename Body>
void for_each_task(const AttentionShape& shape, int64_t heads, const Body& body) {
  const int64_t tasks = (static_cast<int64_t>(shape.cu_seqlens.size()) - 1) * heads;
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
  Matrix<T> q, k, v, out, scores;                                   // forward
  Matrix<T> dout, dscores, dq, dk, dv, part;                        // backward
  std::vector<T> projections;
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
  for_each_task(shape, shape.heads, [&](size_t sequence, int64_t head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    const int64_t kv_offset = first * kv_stride + head / group * d, q_offset = first * q_stride + head * d;
    Workspace<T>& w = workspace<T>();
    w.k.load(k + kv_offset, kv_stride, length, rounded_up<T>(length), d);
    w.v.load(v + kv_offset, kv_stride, length, rounded_up<T>(length), d);
    for_each_block<T>(length, [&](const QueryBlock& block) {
      w.q.load(q + q_offset + block.begin * q_stride, q_stride, block.valid, block.rows, d);
      w.scores.resize(block.rows, block.keys);
      kernels::linear_forward(w.q.view(), w.k.first(block.keys), w.scores.view());
      row_math::causal_softmax(w.scores[0], block.keys, block.begin, block.valid, scale,
                               log_sums + head * tokens + first + block.begin);
      w.out.resize(block.rows, d);
      kernels::linear_input_gradient(w.scores.view(), w.v.first(block.keys), w.out.view());  // P V
      w.out.store(out + q_offset + block.begin * q_stride, q_stride, block.valid);
    });
  });
}

template <typename T>
void causal_attention_backward(const AttentionShape& shape, const T* q, const T* k, const T* v, const T* out, const T* log_sums,
                               const T* dout, const AttentionGradients<T>& gradients) {
  const int64_t d = shape.head_dim, tokens = shape.cu_seqlens.back(), group = shape.heads / shape.kv_heads;
  const int64_t q_stride = shape.heads * d, kv_stride = shape.kv_heads * d;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  for_each_task(shape, shape.kv_heads, [&](size_t sequence, int64_t kv_head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    const int64_t padded = rounded_up<T>(length), kv_offset = first * kv_stride + kv_head * d;
    Workspace<T>& w = workspace<T>();
    w.k.load(k + kv_offset, kv_stride, length, padded, d);
    w.v.load(v + kv_offset, kv_stride, length, padded, d);
    w.dk.fill_zero(padded, d);
    w.dv.fill_zero(padded, d);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for_each_block<T>(length, [&](const QueryBlock& block) {
        const int64_t offset = (first + block.begin) * q_stride + head * d;
        w.q.load(q + offset, q_stride, block.valid, block.rows, d);
        w.dout.load(dout + offset, q_stride, block.valid, block.rows, d);
        w.out.load(out + offset, q_stride, block.valid, block.rows, d);
        w.scores.resize(block.rows, block.keys);
        w.dscores.resize(block.rows, block.keys);
        kernels::linear_forward(w.q.view(), w.k.first(block.keys), w.scores.view());
        kernels::linear_forward(w.dout.view(), w.v.first(block.keys), w.dscores.view());
        row_math::causal_softmax_gradient(w.scores[0], w.dscores[0], block.keys, block.begin, block.valid, scale,
                                          log_sums + head * tokens + first + block.begin, w.dout[0], w.out[0], d);
        w.part.resize(block.keys, d);
        kernels::linear_weight_gradient(w.scores.view(), w.dout.view(), w.part.view());   // P^T dO
        w.dv.add(w.part);
        kernels::linear_weight_gradient(w.dscores.view(), w.q.view(), w.part.view());     // dS^T Q
        w.dk.add(w.part);
        w.dq.resize(block.rows, d);
        kernels::linear_input_gradient(w.dscores.view(), w.k.first(block.keys), w.dq.view());
        w.dq.store(gradients.dq + offset, q_stride, block.valid);
      });
    }
    w.dk.store(gradients.dk + kv_offset, kv_stride, length);
    w.dv.store(gradients.dv + kv_offset, kv_stride, length);
  });
}

#define MOE_CAUSAL_ATTENTION_FOR(T)                                                                                       \
  template void causal_attention_forward<T>(const AttentionShape&, const T*, const T*, const T*, T*, T*);                \
  template void causal_attention_backward<T>(const AttentionShape&, const T*, const T*, const T*, const T*, const T*,    \
                                             const T*, const AttentionGradients<T>&);
MOE_CAUSAL_ATTENTION_FOR(float)
MOE_CAUSAL_ATTENTION_FOR(double)

}  // namespace moe
