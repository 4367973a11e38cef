// Causal attention on the CPU, built on the products of matmul.h. T is the type of queries, keys and values as they
// lie, S the one that is computed in.
#include <algorithm>
#include <cmath>
#include <exception>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"
#include "kernels/matmul.h"
#include "kernels/row_loops.h"
#include "kernels/softmax_cpu.h"

namespace moe::kernels {
namespace {

/// Rows of scores that are worked on together: queries of all heads that share keys, at least kLeastQueries of each.
constexpr int64_t kScoreRows = 256;
constexpr int64_t kLeastQueries = 32;
constexpr int64_t kMostQueries = 128;
/// Lengths are rounded up to this, with zeros: products are prepared per shape, and lengths are many. Not for double,
/// whose products are plain loops.
template <typename S>
constexpr int64_t kLengthStep = std::is_same_v<S, float> ? 32 : 1;

template <typename S>
constexpr DType kDType = std::is_same_v<S, float> ? DType::kFloat32 : DType::kFloat64;

/// A dense matrix that this thread owns.
template <typename S>
class Matrix {
 public:
  /// Contents undefined.
  void resize(int64_t rows, int64_t cols) {
    rows_ = rows;
    cols_ = cols;
    if (static_cast<int64_t>(memory_.size()) < rows * cols) memory_.resize(rows * cols);
  }
  /// Rows [first, first + rows): `valid` from memory where they lie `stride` apart, zeros behind them.
  template <typename T>
  void load(int64_t first, int64_t rows, const T* from, int64_t stride, int64_t valid) {
    for (int64_t row = 0; row < valid; ++row) {
      copy(from + row * stride, (*this)[first + row], [](T value) { return widened(value); });
    }
    std::fill((*this)[first + valid], (*this)[first + rows], S{0});
  }
  void fill_zero(int64_t rows, int64_t cols) {
    resize(rows, cols);
    std::fill_n(memory_.begin(), rows * cols, S{0});
  }
  /// Rows [first, first + rows), to where they lie `stride` apart.
  template <typename T>
  void store(int64_t first, int64_t rows, T* to, int64_t stride) {
    for (int64_t row = 0; row < rows; ++row) {
      copy((*this)[first + row], to + row * stride, [](S value) { return static_cast<T>(value); });
    }
  }
  /// Adds to the rows from `first` on.
  void add(int64_t first, const Matrix& other) {
    S* const to = (*this)[first];
    for (int64_t i = 0; i < other.rows_ * cols_; ++i) to[i] += other.memory_[i];
  }

  S* operator[](int64_t row) { return memory_.data() + row * cols_; }
  MatrixView view() { return part(0, rows_); }
  MatrixView part(int64_t first, int64_t rows) { return {(*this)[first], kDType<S>, rows, cols_, cols_}; }

 private:
  /// A row, converted where the types differ.
  template <typename From, typename To, typename Convert>
  void copy(const From* from, To* to, const Convert& convert) const {
    if constexpr (std::is_same_v<From, To>) {
      std::copy_n(from, cols_, to);
    } else {
      std::transform(from, from + cols_, to, convert);
    }
  }

  std::vector<S> memory_;
  int64_t rows_ = 0, cols_ = 0;
};

template <typename S>
int64_t rounded_up(int64_t length) {
  return (length + kLengthStep<S> - 1) / kLengthStep<S> * kLengthStep<S>;
}

/// A block of queries of one sequence, for all heads that share keys: query `begin` + i of the group's head g is row g
/// * rows + i, i < valid <= rows; they see keys [first_key, first_key + keys), rounded outwards.
struct QueryBlock {
  int64_t begin, valid, rows, first_key, keys;
};

/// Calls body(block) for the blocks of a sequence in order.
template <typename S, typename Body>
void for_each_block(int64_t length, int64_t group, int64_t window, const Body& body) {
  const int64_t padded = rounded_up<S>(length);
  const int64_t rows = std::min(padded, std::clamp(kScoreRows / group / 32 * 32, kLeastQueries, kMostQueries));
  for (int64_t begin = 0; begin < length; begin += rows) {
    const int64_t first_key =
        window > 0 ? std::max<int64_t>(0, begin + 1 - window) / kLengthStep<S> * kLengthStep<S> : 0;
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
template <typename S>
struct Workspace {
  Matrix<S> q, k, v, out, scores;             // forward
  Matrix<S> dout, dscores, dq, dk, dv, part;  // backward

  /// One kv head of a sequence: rows from `first` on, columns from `column` on.
  template <typename T>
  void load_keys(const Rows<const T>& keys, const Rows<const T>& values, int64_t first, int64_t column, int64_t length,
                 int64_t d) {
    const int64_t padded = rounded_up<S>(length);
    k.resize(padded, d);
    v.resize(padded, d);
    k.load(0, padded, keys[first] + column, keys.stride, length);
    v.load(0, padded, values[first] + column, values.stride, length);
  }
};

template <typename S>
Workspace<S>& workspace() {
  thread_local Workspace<S> own;
  return own;
}

template <typename T>
void forward(const AttentionArgs& args) {
  using S = SumOf<T>;
  const AttentionShape& shape = args.shape;
  const int64_t d = shape.head_dim, tokens = args.q.rows, group = shape.heads / shape.kv_heads;
  const auto q = rows_of<T>(args.q), k = rows_of<T>(args.k), v = rows_of<T>(args.v);
  const auto out = rows_of<T>(args.out);
  S* const log_sums = static_cast<S*>(args.log_sums.data);
  const S scale = static_cast<S>(1 / std::sqrt(static_cast<double>(d)));
  for_each_task(shape, [&](size_t sequence, int64_t kv_head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    Workspace<S>& w = workspace<S>();
    w.load_keys(k, v, first, kv_head * d, length, d);
    for_each_block<S>(length, group, shape.window, [&](const QueryBlock& block) {
      const int64_t token = first + block.begin, column = kv_head * group * d;
      w.q.resize(group * block.rows, d);
      w.out.resize(group * block.rows, d);
      w.scores.resize(group * block.rows, block.keys);
      for (int64_t g = 0; g < group; ++g)
        w.q.load(g * block.rows, block.rows, q[token] + column + g * d, q.stride, block.valid);
      linear_forward(w.q.view(), w.k.part(block.first_key, block.keys), w.scores.view());
      for (int64_t g = 0; g < group; ++g) {
        causal_softmax(w.scores[g * block.rows], block.keys, block.begin - block.first_key, block.valid, shape.window,
                       scale, log_sums + (kv_head * group + g) * tokens + token);
      }
      linear_input_gradient(w.scores.view(), w.v.part(block.first_key, block.keys), w.out.view());  // P V
      for (int64_t g = 0; g < group; ++g)
        w.out.store(g * block.rows, block.valid, out[token] + column + g * d, out.stride);
    });
  });
}

template <typename T>
void backward(const AttentionGradientArgs& args) {
  using S = SumOf<T>;
  const AttentionShape& shape = args.shape;
  const int64_t d = shape.head_dim, tokens = args.q.rows, group = shape.heads / shape.kv_heads;
  const auto q = rows_of<T>(args.q), k = rows_of<T>(args.k), v = rows_of<T>(args.v), out = rows_of<T>(args.out),
             dout = rows_of<T>(args.dout);
  const auto dq = rows_of<T>(args.dq), dk = rows_of<T>(args.dk), dv = rows_of<T>(args.dv);
  const S* const log_sums = static_cast<const S*>(args.log_sums.data);
  const S scale = static_cast<S>(1 / std::sqrt(static_cast<double>(d)));
  for_each_task(shape, [&](size_t sequence, int64_t kv_head) {
    const int64_t first = shape.cu_seqlens[sequence], length = shape.cu_seqlens[sequence + 1] - first;
    Workspace<S>& w = workspace<S>();
    w.load_keys(k, v, first, kv_head * d, length, d);
    w.dk.fill_zero(rounded_up<S>(length), d);
    w.dv.fill_zero(rounded_up<S>(length), d);
    for_each_block<S>(length, group, shape.window, [&](const QueryBlock& block) {
      const int64_t token = first + block.begin, column = kv_head * group * d;
      for (Matrix<S>* matrix : {&w.q, &w.out, &w.dout, &w.dq}) matrix->resize(group * block.rows, d);
      for (Matrix<S>* matrix : {&w.scores, &w.dscores}) matrix->resize(group * block.rows, block.keys);
      for (int64_t g = 0; g < group; ++g) {
        w.q.load(g * block.rows, block.rows, q[token] + column + g * d, q.stride, block.valid);
        w.out.load(g * block.rows, block.rows, out[token] + column + g * d, out.stride, block.valid);
        w.dout.load(g * block.rows, block.rows, dout[token] + column + g * d, dout.stride, block.valid);
      }
      linear_forward(w.q.view(), w.k.part(block.first_key, block.keys), w.scores.view());
      linear_forward(w.dout.view(), w.v.part(block.first_key, block.keys), w.dscores.view());
      for (int64_t g = 0; g < group; ++g) {
        const int64_t row = g * block.rows;
        causal_softmax_gradient(w.scores[row], w.dscores[row], block.keys, block.begin - block.first_key, block.valid,
                                shape.window, scale, log_sums + (kv_head * group + g) * tokens + token, w.dout[row],
                                w.out[row], d);
      }
      w.part.resize(block.keys, d);
      linear_weight_gradient(w.scores.view(), w.dout.view(), w.part.view());  // P^T dO, summed over the group
      w.dv.add(block.first_key, w.part);
      linear_weight_gradient(w.dscores.view(), w.q.view(), w.part.view());  // dS^T Q
      w.dk.add(block.first_key, w.part);
      linear_input_gradient(w.dscores.view(), w.k.part(block.first_key, block.keys), w.dq.view());
      for (int64_t g = 0; g < group; ++g)
        w.dq.store(g * block.rows, block.valid, dq[token] + column + g * d, dq.stride);
    });
    w.dk.store(0, length, dk[first] + kv_head * d, dk.stride);
    w.dv.store(0, length, dv[first] + kv_head * d, dv.stride);
  });
}

}  // namespace

void attention_cpu(const AttentionArgs& args) {
  with_type(args.q.dtype, [&]<typename T>(T) { forward<T>(args); });
}

void attention_gradient_cpu(const AttentionGradientArgs& args) {
  with_type(args.q.dtype, [&]<typename T>(T) { backward<T>(args); });
}

}  // namespace moe::kernels
