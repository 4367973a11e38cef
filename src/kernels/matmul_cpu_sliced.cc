#include "kernels/matmul_cpu_sliced.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/dense_operand.h"
#include "kernels/onednn_matmul.h"
#include "kernels/thread_tasks.h"

namespace moe::kernels {
namespace {

/// Up to here one run is exact enough: the widths of small models lose no time.
constexpr int64_t kLongestRun = 288;
constexpr int64_t kLongestSlice = 128;
/// Rows and columns of c whose slices are summed before the next: a quarter of a megabyte a slice.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileCols = 256;

/// The inner dimension as `count` slices of `length`; longer than k where no suitable number divides it: then operands
/// are padded with zeros.
struct Slices {
  int64_t count, length;

  int64_t total() const { return count * length; }
};

Slices slices_of(int64_t k) {
  const int64_t least = (k + kLongestSlice - 1) / kLongestSlice;
  for (int64_t count = least; count < 2 * least; ++count) {
    if (k % count == 0) {
      return {count, k / count};
    }
  }
  return {least, (k + least - 1) / least};
}

std::shared_ptr<const OneDnnMatmul> matmul_of(int64_t rows, int64_t cols, const Slices& slices) {
  return onednn_matmul({.dtype = DType::kFloat32,
                        .m = rows,
                        .n = cols,
                        .k = slices.length,
                        .slices = slices.count,
                        .b_is_transposed = true});
}

/// An operand as dense runs of slices.total(), where it lies or in `copy`.
const float* dense(const void* data, const Runs& runs, const Slices& slices, std::vector<float>& copy) {
  if (runs.is_dense() && runs.inner == slices.total()) {
    return static_cast<const float*>(data);
  }
  copy.resize(static_cast<size_t>(runs.outer * slices.total()));  // of zeros
  copy_runs(copy.data(), slices.total(), data, runs, sizeof(float));
  return copy.data();
}

/// c[rows, cols] = sum over s of sums[s * slice_size + ...], in order.
void add_slices(const float* sums, int64_t slices, int64_t slice_size, int64_t rows, int64_t cols, float* c,
                int64_t c_stride) {
#pragma omp parallel for schedule(static) if (!omp_in_parallel() && rows * cols > 1 << 14)
  for (int64_t row = 0; row < rows; ++row) {
    float* const out = c + row * c_stride;
    const float* slice = sums + row * cols;
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j) {
      out[j] = slice[j] + slice[slice_size + j];
    }
    for (int64_t s = 2; s < slices; ++s) {
      const float* const next = slice + s * slice_size;
#pragma omp simd
      for (int64_t j = 0; j < cols; ++j) {
        out[j] += next[j];
      }
    }
  }
}

/// Rows [first, first + rows) of c, which one run computes as the last of `run` rows: a prepared count. Those before
/// them are other tiles' to write.
struct RowTile {
  int64_t first, rows, run;
};

std::vector<RowTile> row_tiles(int64_t m) {
  std::vector<RowTile> tiles;
  if (m <= kTileRows) {
    const int64_t run = rows_of_a_run(m);
    tiles.push_back({0, run, run});
    if (run < m) {
      tiles.push_back({run, m - run, run});
    }
    return tiles;
  }
  int64_t row = 0;
  for (; row + kTileRows <= m; row += kTileRows) {
    tiles.push_back({row, kTileRows, kTileRows});
  }
  if (row < m) {
    tiles.push_back({row, m - row, prepared_count(m - row)});
  }
  return tiles;
}

}  // namespace

bool is_for_slices(const Product& product) {
  const bool is_forward = product.a.col_stride == 1 && product.b.col_stride != 1;
  if (product.dtype != DType::kFloat32 || product.k <= kLongestRun || !is_forward) {
    return false;
  }
  // jit gemm, which stands in elsewhere, sums in blocks itself.
  return matmul_of(kTileRows, std::min(product.n, kTileCols), slices_of(product.k))->is_brgemm;
}

void matmul_sliced(const Product& product) {
  const Slices slices = slices_of(product.k);
  std::vector<float> a_copy, b_copy;
  const float* const a = dense(product.a.data, runs_of(product.a, product.m, product.k), slices, a_copy);
  const float* const b = dense(product.b.data, {product.n, product.k, product.b.col_stride}, slices, b_copy);
  const std::vector<RowTile> tiles = row_tiles(product.m);
  const auto tile_rows = static_cast<int64_t>(tiles.size()), tile_cols = (product.n + kTileCols - 1) / kTileCols;
  const auto run_tile = [&](int64_t index) {
    const RowTile& tile = tiles[static_cast<size_t>(index % tile_rows)];
    const int64_t skipped = tile.run - tile.rows;
    const int64_t col = index / tile_rows * kTileCols, cols = std::min(kTileCols, product.n - col);
    const std::shared_ptr<const OneDnnMatmul> matmul = matmul_of(tile.run, cols, slices);
    const size_t sums_bytes = aligned(static_cast<size_t>(slices.count * tile.run * cols) * sizeof(float));
    char* const memory = static_cast<char*>(working_memory(sums_bytes + matmul->scratchpad.get_size()));
    auto* const sums = reinterpret_cast<float*>(memory);
    matmul->run(a + (tile.first - skipped) * slices.total(), b + col * slices.total(), sums, memory + sums_bytes);
    add_slices(sums + skipped * cols, slices.count, tile.run * cols, tile.rows, cols,
               static_cast<float*>(product.c) + tile.first * product.c_stride + col, product.c_stride);
  };
  // Many tiles: one on each thread, which meet at the end alone. Few: all threads on each.
  for_each_index(tile_rows * tile_cols, run_tile);
}

}  // namespace moe::kernels
