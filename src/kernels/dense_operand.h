#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/backend.h"

/// How the matrices of a product lie, and dense copies of those whose rows lie apart: what the CPU's products share.
/// Plain functions on plain memory; copies run on the OpenMP threads of the caller.
namespace moe::kernels {

/// One matrix of a product as it lies: `outer` runs of `inner` elements, `stride` apart.
struct Runs {
  int64_t outer, inner, stride;

  bool is_dense() const { return stride == inner || outer <= 1; }
};

inline Runs runs_of(const Product::Operand& operand, int64_t rows, int64_t cols) {
  return operand.col_stride == 1 ? Runs{rows, cols, operand.row_stride} : Runs{cols, rows, operand.col_stride};
}

/// Copies the runs to places `to_stride` elements apart.
inline void copy_runs(void* to, int64_t to_stride, const void* from, const Runs& runs, size_t element) {
  const size_t bytes = static_cast<size_t>(runs.inner) * element;
#pragma omp parallel for schedule(static) if (runs.outer * runs.inner > 1 << 16)
  for (int64_t i = 0; i < runs.outer; ++i) {
    std::memcpy(static_cast<char*>(to) + static_cast<size_t>(i * to_stride) * element,
                static_cast<const char*>(from) + static_cast<size_t>(i * runs.stride) * element, bytes);
  }
}

}  // namespace moe::kernels
