#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "common/error.h"
#include "kernels/views.h"

/// Torch tensors as the views that src/kernels takes. The tensor must outlive the call.
namespace moe {

inline kernels::DType kernel_dtype(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return kernels::DType::kFloat32;
    case at::kDouble: return kernels::DType::kFloat64;
    case at::kBFloat16: return kernels::DType::kBFloat16;
    default: throw InvalidArgument(concat("kernels take float32, float64 and bfloat16, not ", tensor.dtype().name()));
  }
}

/// In which type sums over elements of `type` lie, and what is kept of them (kernels::sum_dtype).
inline at::ScalarType sum_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// Rows with unit stride along columns.
inline at::Tensor row_major(const at::Tensor& tensor) {
  return tensor.dim() == 2 && (tensor.stride(1) == 1 || tensor.size(1) <= 1) && tensor.stride(0) >= tensor.size(1)
             ? tensor
             : tensor.contiguous();
}

inline kernels::ConstMatrixView const_view(const at::Tensor& matrix) {
  return {matrix.const_data_ptr(), kernel_dtype(matrix), matrix.size(0), matrix.size(1),
          std::max(matrix.stride(0), matrix.size(1))};
}

inline kernels::MatrixView mutable_view(at::Tensor& matrix) {
  return {matrix.mutable_data_ptr(), kernel_dtype(matrix), matrix.size(0), matrix.size(1),
          std::max(matrix.stride(0), matrix.size(1))};
}

/// A dense tensor [T, heads, d] as the matrix [T, heads * d].
inline kernels::ConstMatrixView const_heads_view(const at::Tensor& x) {
  const int64_t width = x.size(1) * x.size(2);
  return {x.const_data_ptr(), kernel_dtype(x), x.size(0), width, width};
}
inline kernels::MatrixView mutable_heads_view(at::Tensor& x) {
  const int64_t width = x.size(1) * x.size(2);
  return {x.mutable_data_ptr(), kernel_dtype(x), x.size(0), width, width};
}

/// A dense tensor, whatever its shape.
inline kernels::ConstVectorView const_vector(const at::Tensor& dense) {
  return {dense.const_data_ptr(), kernel_dtype(dense), dense.numel()};
}
/// Without data for an undefined one: not wanted.
inline kernels::VectorView mutable_vector(at::Tensor& dense) {
  if (!dense.defined()) return {};
  return {dense.mutable_data_ptr(), kernel_dtype(dense), dense.numel()};
}

}  // namespace moe
