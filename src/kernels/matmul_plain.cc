#include <algorithm>
#include <array>
#include <memory>

#include "kernels/bfloat16.h"
#include "kernels/matmul_cpu.h"

namespace moe::kernels {
namespace {

/// Rows of a block and the panel of b [kDepth, kCols] that all of them use: 32 KB of b in double, half the sums.
constexpr int64_t kRows = 32;
constexpr int64_t kCols = 32;
constexpr int64_t kDepth = 128;

template <typename T>
struct Block {
  using Sum = typename Accumulate<T>::Type;
  std::array<Sum, kRows * kCols> sums;
  std::array<Sum, kCols> panel_sums;  // of one row
  std::array<Sum, kDepth * kCols> panel;

  void add_panel(const Product& p, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t k0, int64_t depth) {
    const T* const b = static_cast<const T*>(p.b.data);
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < kCols; ++j) {
        panel[k * kCols + j] =
            j < cols ? static_cast<Sum>(b[(k0 + k) * p.b.row_stride + (col + j) * p.b.col_stride]) : Sum{0};
      }
    }
    const T* const a = static_cast<const T*>(p.a.data);
    for (int64_t i = 0; i < rows; ++i) {
      Sum* const sum = sums.data() + i * kCols;
      panel_sums.fill(0);
      for (int64_t k = 0; k < depth; ++k) {
        const Sum value = static_cast<Sum>(a[(row + i) * p.a.row_stride + (k0 + k) * p.a.col_stride]);
        for (int64_t j = 0; j < kCols; ++j) {
          panel_sums[j] += value * panel[k * kCols + j];
        }
      }
      for (int64_t j = 0; j < kCols; ++j) {
        sum[j] += panel_sums[j];
      }
    }
  }

  void store(const Product& p, int64_t row, int64_t rows, int64_t col, int64_t cols) const {
    T* const c = static_cast<T*>(p.c);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        c[(row + i) * p.c_stride + col + j] = static_cast<T>(sums[i * kCols + j]);
      }
    }
  }
};

template <typename T>
void multiply(const Product& p) {
  const int64_t row_blocks = (p.m + kRows - 1) / kRows;
#pragma omp parallel if (p.m * p.n * p.k > 1 << 16)
  {
    const auto block = std::make_unique<Block<T>>();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < row_blocks; ++r) {
      const int64_t row = r * kRows;
      const int64_t rows = std::min(kRows, p.m - row);
      for (int64_t col = 0; col < p.n; col += kCols) {
        const int64_t cols = std::min(kCols, p.n - col);
        block->sums.fill(0);
        for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
          block->add_panel(p, row, rows, col, cols, k0, std::min(kDepth, p.k - k0));
        }
        block->store(p, row, rows, col, cols);
      }
    }
  }
}

}  // namespace

void matmul_plain(const Product& product) {
  switch (product.dtype) {
    case DType::kFloat32: return multiply<float>(product);
    case DType::kBFloat16: return multiply<BFloat16>(product);
    case DType::kFloat64: return multiply<double>(product);
  }
}

}  // namespace moe::kernels
