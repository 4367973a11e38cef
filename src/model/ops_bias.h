#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/rows.h"
#include "model/kernel_views.h"

/// A bias as the third input of an autograd function, which may be absent: Torch takes no undefined tensor there, and
/// counts the inputs that it was given.
namespace moe::ops {

inline constexpr char kHasBias[] = "has_bias";

inline std::optional<at::Tensor> if_defined(const at::Tensor& bias) {
  return bias.defined() ? std::optional(bias) : std::nullopt;
}
inline at::Tensor or_undefined(const std::optional<at::Tensor>& bias) {
  return bias.value_or(at::Tensor());
}

/// Adds bias [O] to the rows of y.
inline void add_bias_to(at::Tensor& y, const at::Tensor& bias, const kernels::Queue& queue) {
  kernels::add_bias(const_vector(bias.contiguous()), mutable_view(y), queue);
}

/// The sum [O] of the rows of dy, which have unit stride along columns.
inline at::Tensor bias_gradient(const at::Tensor& dy, const kernels::Queue& queue) {
  at::Tensor dbias = at::empty({dy.size(1)}, dy.options());
  kernels::sum_rows(const_view(dy), mutable_vector(dbias), queue);
  return dbias;
}

}  // namespace moe::ops
