#include "kernels/matmul_cpu_sliced.h"

#include <algorithm>
#include <memory>

#include "kernels/dense_operand.h"
#include "kernels/onednn_matmul.h"

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
  return onednn_matmul({.dtype = DType::kFloat32, .m = rows, .n = cols, .k = slices.length, .slices = slices.count,
                        .b_is_transposed = true});
}

/// An operand as dense runs of slices.total(), where it lies or in `memory`, which then moves on.
const float* dense(const void* data, const Runs& runs, const Slices& slices, char*& memory) {
  if (runs.is_dense() && runs.inner == slices.total()) {
    return static_cast<const float*>(data);
  }
  auto* const copy = reinterpret_cast<float*>(memory);
  copy_runs(copy, slices.total(), data, runs, sizeof(float));
  for (int64_t i = 0; runs.inner < slices.total() && i < runs.outer; ++i) {
    std::fill(copy + i * slices.total() + runs.inner, copy + (i + 1) * slices.total(), 0.f);
  }
  memory += aligned(static_cast<size_t>(runs.outer * slices.total()) * sizeof(float));
  return copy;
}

size_t copy_bytes(const Runs& runs, const Slices& slices) {
  return runs.is_dense() && runs.inner == slices.total()
             ? 0
             : aligned(static_cast<size_t>(runs.outer * slices.total()) * sizeof(float));
}

/// c[rows, cols] = sum over s of sums[s], in order.
void add_slices(const float* sums, int64_t slices, int64_t rows, int64_t cols, float* c, int64_t c_stride) {
#pragma omp parallel for schedule(static) if (rows * cols > 1 << 14)
  for (int64_t row = 0; row < rows; ++row) {
    float* const out = c + row * c_stride;
    const float* slice = sums + row * cols;
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j) {
      out[j] = slice[j] + slice[rows * cols + j];
    }
    for (int64_t s = 2; s < slices; ++s) {
      const float* const next = slice + s * rows * cols;
#pragma omp simd
      for (int64_t j = 0; j < cols; ++j) {
        out[j] += next[j];
      }
    }
  }
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
  const Runs a_runs = runs_of(product.a, product.m, product.k);
  const Runs b_runs{product.n, product.k, product.b.col_stride};
  const int64_t tile = std::min(product.m, kTileRows) * std::min(product.n, kTileCols);
  const size_t sums_bytes = aligned(static_cast<size_t>(slices.count * tile) * sizeof(float));
  size_t scratchpad = 0;
  const auto for_each_tile = [&](const auto& body) {
    for (int64_t col = 0; col < product.n; col += kTileCols) {
      for (int64_t row = 0; row < product.m; row += kTileRows) {
        body(row, std::min(kTileRows, product.m - row), col, std::min(kTileCols, product.n - col));
      }
    }
  };
  for_each_tile([&](int64_t, int64_t rows, int64_t, int64_t cols) {
    scratchpad = std::max(scratchpad, matmul_of(rows, cols, slices)->scratchpad.get_size());
  });

  char* memory = static_cast<char*>(
      working_memory(copy_bytes(a_runs, slices) + copy_bytes(b_runs, slices) + sums_bytes + scratchpad));
  const float* const a = dense(product.a.data, a_runs, slices, memory);
  const float* const b = dense(product.b.data, b_runs, slices, memory);
  auto* const sums = reinterpret_cast<float*>(memory);
  for_each_tile([&](int64_t row, int64_t rows, int64_t col, int64_t cols) {
    matmul_of(rows, cols, slices)
        ->run(a + row * slices.total(), b + col * slices.total(), sums, memory + sums_bytes);
    add_slices(sums, slices.count, rows, cols, static_cast<float*>(product.c) + row * product.c_stride + col,
               product.c_stride);
  });
}

}  // namespace moe::kernels
