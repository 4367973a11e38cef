#pragma once

#include <ATen/core/Tensor.h>

#include "common/error.h"

namespace moe::ops {

/// Calls body(T{}) with the tensor's element type, float or double; the tensor must lie on the CPU.
template <typename Body>
void for_dtype(const at::Tensor& tensor, const Body& body) {
  MOE_CHECK(tensor.device().is_cpu(), "row operations run on the CPU, not on ", tensor.device().str());
  switch (tensor.scalar_type()) {
    case at::kFloat: return body(float{});
    case at::kDouble: return body(double{});
    default: throw InvalidArgument(concat("row operations take float32 and float64, not ", tensor.dtype().name()));
  }
}

}  // namespace moe::ops
