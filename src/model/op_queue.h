#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>

#include "kernels/views.h"

namespace moe::ops {

/// A tensor of an operation, under the name that errors give it.
struct NamedTensor {
  const char* name;
  const at::Tensor& tensor;
};

/// Where an operation on these tensors runs: on their device, behind what the calling thread's current stream of that
/// device holds already. The one place that decides it: an operation asks with all tensors that were handed to it,
/// before it allocates. Undefined tensors have no say.
///
/// Throws   InvalidArgument, with the operation, the tensors and their devices, if they lie on different devices, on
///          one that there are no kernels for, or on another CUDA device than the calling thread's current one.
kernels::Queue queue_of(const char* op, std::initializer_list<NamedTensor> tensors);

}  // namespace moe::ops
