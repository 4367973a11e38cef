// Products and biases of rows in groups on CUDA, by tiles in shared memory. How many rows a group has is read on the
// device alone: nothing here waits. A plain version, for any width and dtype; a launch costs what its widest product
// needs, tensor cores are not used.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda_columns.h"
#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kTile = 16;

/// Rows [first, first + rows) of a group.
struct Group {
  int64_t index, first, rows;
};

__device__ Group group_at(const RowGroups& groups, int64_t index) {
  Group group{index, 0, groups.rows[index]};
  for (int64_t g = 0; g < index; ++g) group.first += groups.rows[g];
  return group;
}

/// The tile of rows that a block works on: tiles end with their group, so that each has one group's weights. There are
/// at most rows / kTile + groups of them; one that is not there has index -1.
struct RowTile {
  int64_t group, first, rows;
};
__device__ RowTile row_tile(const RowGroups& groups, int64_t index) {
  int64_t first = 0;
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t rows = groups.rows[g], tiles = ceil_div(rows, kTile);
    if (index < tiles) return {g, first + index * kTile, min(rows - index * kTile, static_cast<int64_t>(kTile))};
    index -= tiles;
    first += rows;
  }
  return {-1, 0, 0};
}

/// One group's matrix: element (i, j) at data + group * group_stride + i * row_stride + j * col_stride.
template <typename T>
struct GroupMatrix {
  const T* data;
  int64_t group_stride, row_stride, col_stride;

  __device__ SumOf<T> at(int64_t group, int64_t i, int64_t j) const {
    return widen(data[group * group_stride + i * row_stride + j * col_stride]);
  }
};

/// Adds a[i, k] * b[k, j] over k in [0, depth) for the tile's element of this thread, in the order of k. a(i, k) and
/// b(k, j) are called inside the tile's bounds alone.
template <typename S, typename A, typename B>
__device__ S tile_product(int64_t rows, int64_t cols, int64_t depth, const A& a, const B& b) {
  __shared__ S a_tile[kTile][kTile + 1], b_tile[kTile][kTile + 1];
  const int x = threadIdx.x, y = threadIdx.y;
  S sum = 0;
  for (int64_t first = 0; first < depth; first += kTile) {
    a_tile[y][x] = y < rows && first + x < depth ? a(y, first + x) : S{0};
    b_tile[y][x] = x < cols && first + y < depth ? b(first + y, x) : S{0};
    __syncthreads();
    for (int k = 0; k < kTile; ++k) sum += a_tile[y][k] * b_tile[k][x];
    __syncthreads();
  }
  return sum;
}

/// c[r, n] = sum over k of a[r, k] * b of the row's group [k, n].
template <typename T>
__global__ void row_product_kernel(Rows<const T> a, GroupMatrix<T> b, Rows<T> c, int64_t K, int64_t N,
                                   RowGroups groups) {
  const RowTile tile = row_tile(groups, blockIdx.x);
  if (tile.group < 0) return;
  const int64_t first_col = static_cast<int64_t>(blockIdx.y) * kTile,
                cols = min(N - first_col, static_cast<int64_t>(kTile));
  const SumOf<T> sum = tile_product<SumOf<T>>(
      tile.rows, cols, K, [&](int64_t i, int64_t k) { return widen(a[tile.first + i][k]); },
      [&](int64_t k, int64_t j) { return b.at(tile.group, k, first_col + j); });
  if (threadIdx.y < tile.rows && threadIdx.x < cols) {
    c[tile.first + threadIdx.y][first_col + threadIdx.x] = narrow<T>(sum);
  }
}

/// c of group g [m, n] = sum over its rows r of a[r, m] * b[r, n].
template <typename T>
__global__ void weight_product_kernel(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t M, int64_t N,
                                      RowGroups groups) {
  const Group group = group_at(groups, blockIdx.z);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile,
                rows = min(M - first_row, static_cast<int64_t>(kTile));
  const int64_t first_col = static_cast<int64_t>(blockIdx.y) * kTile,
                cols = min(N - first_col, static_cast<int64_t>(kTile));
  const SumOf<T> sum = tile_product<SumOf<T>>(
      rows, cols, group.rows, [&](int64_t i, int64_t r) { return widen(a[group.first + r][first_row + i]); },
      [&](int64_t r, int64_t j) { return widen(b[group.first + r][first_col + j]); });
  if (threadIdx.y < rows && threadIdx.x < cols) {
    c[group.index * M + first_row + threadIdx.y][first_col + threadIdx.x] = narrow<T>(sum);
  }
}

/// Block x is a row.
template <typename T>
__global__ void add_bias_kernel(Rows<const T> bias, Rows<T> y, int64_t width, RowGroups groups) {
  const int64_t row = blockIdx.x;
  int64_t group = 0, end = groups.rows[0];
  while (row >= end) end += groups.rows[++group];
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    y[row][i] = narrow<T>(widen(y[row][i]) + widen(bias[group][i]));
  }
}

/// Block y is a group.
template <typename T>
__global__ void sum_rows_kernel(Rows<const T> x, Rows<T> sums, int64_t width, RowGroups groups) {
  const Group group = group_at(groups, blockIdx.y);
  const SumOf<T> total = column_sum<SumOf<T>>(group.first, group.first + group.rows, width, ElementTerm<T>{x});
  if (writes_column(width)) sums[group.index][this_column()] = narrow<T>(total);
}

/// Blocks of the axes y and z, of which CUDA takes 65,535.
unsigned short_grid(int64_t blocks, const char* op) {
  constexpr int64_t kMost = 65535;
  if (blocks > kMost)
    throw InvalidArgument(concat(op, ": ", blocks, " blocks exceed what one launch can take (", kMost, ")"));
  return static_cast<unsigned>(blocks);
}

/// c [R, N] of a [R, K] and each group's b [K, N].
void launch_row_product(const char* op, const GroupedLinearArgs& args, bool is_transposed, cudaStream_t stream) {
  const int64_t R = args.a.rows, K = args.a.cols, N = args.c.cols, group_rows = is_transposed ? N : K;
  if (R == 0 || N == 0) return;
  const dim3 blocks(grid(ceil_div(R, kTile) + args.groups.count, op), short_grid(ceil_div(N, kTile), op));
  with_type(args.a.dtype, [&]<typename T>(T) {
    const int64_t stride = args.b.stride;
    const GroupMatrix<T> b{static_cast<const T*>(args.b.data), group_rows * stride, is_transposed ? 1 : stride,
                           is_transposed ? stride : 1};
    row_product_kernel<T>
        <<<blocks, dim3(kTile, kTile), 0, stream>>>(rows_of<T>(args.a), b, rows_of<T>(args.c), K, N, args.groups);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace

void grouped_linear_forward_cuda(const GroupedLinearArgs& args, cudaStream_t stream) {
  launch_row_product("grouped_linear_forward", args, true, stream);
}

void grouped_linear_input_gradient_cuda(const GroupedLinearArgs& args, cudaStream_t stream) {
  launch_row_product("grouped_linear_input_gradient", args, false, stream);
}

void grouped_linear_weight_gradient_cuda(const GroupedLinearArgs& args, cudaStream_t stream) {
  constexpr char kOp[] = "grouped_linear_weight_gradient";
  const int64_t M = args.a.cols, N = args.b.cols;
  if (M == 0 || N == 0) return;
  const dim3 blocks(grid(ceil_div(M, kTile), kOp), short_grid(ceil_div(N, kTile), kOp),
                    short_grid(args.groups.count, kOp));
  with_type(args.a.dtype, [&]<typename T>(T) {
    weight_product_kernel<T><<<blocks, dim3(kTile, kTile), 0, stream>>>(rows_of<T>(args.a), rows_of<T>(args.b),
                                                                        rows_of<T>(args.c), M, N, args.groups);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void grouped_add_bias_cuda(const GroupedAddBiasArgs& args, cudaStream_t stream) {
  if (args.y.rows == 0 || args.y.cols == 0) return;
  constexpr int kThreads = 256;
  with_type(args.y.dtype, [&]<typename T>(T) {
    const unsigned blocks = grid(args.y.rows, "grouped_add_bias");
    add_bias_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(rows_of<T>(args.bias), rows_of<T>(args.y), args.y.cols, args.groups);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void grouped_sum_rows_cuda(const GroupedSumRowsArgs& args, cudaStream_t stream) {
  if (args.x.cols == 0) return;
  const dim3 blocks(column_grid(args.x.cols), short_grid(args.groups.count, "grouped_sum_rows"));
  with_type(args.x.dtype, [&]<typename T>(T) {
    sum_rows_kernel<T>
        <<<blocks, column_block(), 0, stream>>>(rows_of<T>(args.x), rows_of<T>(args.sums), args.x.cols, args.groups);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace moe::kernels
