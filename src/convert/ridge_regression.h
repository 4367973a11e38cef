#pragma once

#include <ATen/core/Tensor.h>

// T samples, D coordinates, E outputs.
namespace moe {

/// The rows w_e that minimise sum_t (y_te - w_e x_t)^2 + ridge m |w_e|^2, with m = sum_t |x_t|^2 / D, so that `ridge`
/// has no unit. By the normal equations, in double, each sum in one order: no bit depends on threads.
///
/// Shapes   x [T, D], y [T, E], float, contiguous -> [E, D] float. ridge > 0; T may be less than D.
/// Cost     T D^2 / 2 + D^3 / 6 products and sums; memory 8 D^2 bytes.
at::Tensor ridge_regression(const at::Tensor& x_TD, const at::Tensor& y_TE, double ridge);

}  // namespace moe
