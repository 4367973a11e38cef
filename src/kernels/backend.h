#pragma once

#include <cstdint>

#include "kernels/views.h"

/// What one device implements, as plain functions on checked arguments. Callers use matmul.h and permute.h, which check
/// shapes once and then look the device up here; only the implementations include this file. The CPU's table is linked
/// in; CUDA's comes out of the shared library libmoe_cuda (cuda_library.h), so that a CPU program links no CUDA.
namespace moe::kernels {

/// c[m, n] = sum over k of a[m, k] * b[k, n], all of one dtype; element (i, j) of an operand lies at
/// data + i * row_stride + j * col_stride (one of the two strides is 1). c is row-major. m, n > 0; k may be 0 (c = 0).
struct Product {
  struct Operand {
    const void* data;
    int64_t row_stride;
    int64_t col_stride;
  };
  DType dtype;
  int64_t m, n, k;
  Operand a, b;
  void* c;
  int64_t c_stride;
};

/// The arguments of permute.h, with shapes that agree; of sizes only the outer loop's is known to be above 0. Weights
/// lie without gaps, in weight_dtype of the rows.
struct PermuteArgs {
  ConstMatrixView x;
  const int64_t* row_tokens;
  MatrixView rows;
};
struct UnpermuteArgs {
  ConstMatrixView rows;
  const int64_t* slot_rows;
  int64_t slots;
  const void* weights;
  MatrixView y;
};
struct UnpermuteGradientArgs {
  ConstMatrixView dy;
  ConstMatrixView rows;
  const int64_t* slot_rows;
  int64_t slots;
  const void* weights;
  MatrixView drows;
  void* dweights;
};

struct Backend {
  void (*matmul)(const Product&, void* stream);
  void (*permute)(const PermuteArgs&, void* stream);
  void (*unpermute)(const UnpermuteArgs&, void* stream);
  void (*unpermute_gradient)(const UnpermuteGradientArgs&, void* stream);
  /// Devices that the process can use; 0 where there is none or no driver.
  int (*device_count)();
};

/// Throws InvalidArgument for kCuda when no CUDA library was loaded.
const Backend& backend(DeviceType device);

/// The CPU's implementations.
extern const Backend kCpuBackend;

}  // namespace moe::kernels
