#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/ops.h"
#include "model/ops_dtype.h"
#include "model/row_math.h"

/// A bias as the third input of an autograd function, which may be absent: Torch takes no undefined tensor there, and
/// counts the inputs that it was given.
namespace moe::ops {

inline constexpr char kHasBias[] = "has_bias";

inline std::optional<at::Tensor> if_defined(const at::Tensor& bias) {
  return bias.defined() ? std::optional(bias) : std::nullopt;
}

/// Adds bias [O] to rows [first, first + count) of y.
inline void add_bias_to(at::Tensor& y, int64_t first, int64_t count, const at::Tensor& bias) {
  for_dtype(y, [&]<typename T>(T) {
    row_math::add_bias<T>(bias.const_data_ptr<T>(), count, y.size(1), y.mutable_data_ptr<T>() + first * y.size(1));
  });
}

/// dbias [O] = sum of rows [first, first + count) of dy.
inline void sum_rows(const at::Tensor& dy, int64_t first, int64_t count, at::Tensor dbias) {
  for_dtype(dy, [&]<typename T>(T) {
    row_math::bias_gradient<T>({dy.const_data_ptr<T>() + first * dy.stride(0), dy.stride(0)}, count, dy.size(1),
                               dbias.mutable_data_ptr<T>());
  });
}

}  // namespace moe::ops
