#pragma once

#include <cstdint>

#include "kernels/cuda_elements.h"

/// Sums over rows. A block of kColumns x kRowLanes threads takes kColumns columns; lane y adds the rows y, y +
/// kRowLanes,
/// ..., then the lanes are added in order: the same bits for the same rows. For the files *_cuda.cu.
namespace moe::kernels::cuda {

constexpr int kColumns = 32;
constexpr int kRowLanes = 16;

inline dim3 column_block() {
  return {kColumns, kRowLanes, 1};
}
inline unsigned column_grid(int64_t columns) {
  return static_cast<unsigned>(ceil_div(columns, kColumns));
}
/// This thread's column; all threads of a block go on, also those whose column is behind the last.
__device__ inline int64_t this_column() {
  return static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
}

/// Sum of term(row, this_column()) for rows in [begin, end), right in the threads of lane 0. All threads of the block
/// call it, and it may be called again at once.
template <typename S, typename Term>
__device__ S column_sum(int64_t begin, int64_t end, int64_t columns, const Term& term) {
  __shared__ S of_lane[kRowLanes][kColumns];
  const int64_t column = this_column();
  S sum = 0;
  if (column < columns) {
    for (int64_t row = begin + threadIdx.y; row < end; row += kRowLanes) sum += term(row, column);
  }
  of_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  S total = 0;
  for (int lane = 0; lane < kRowLanes; ++lane) total += of_lane[lane][threadIdx.x];
  __syncthreads();
  return total;
}

/// Whether this thread writes its column's sum.
__device__ inline bool writes_column(int64_t columns) {
  return threadIdx.y == 0 && this_column() < columns;
}

/// term(row, column) = an element of a matrix of T.
template <typename T>
struct ElementTerm {
  Rows<const T> x;

  __device__ SumOf<T> operator()(int64_t row, int64_t column) const { return widen(x[row][column]); }
};

}  // namespace moe::kernels::cuda
