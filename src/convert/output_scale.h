#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "comm/communicator.h"

namespace moe {

/// The factor of a layer's routed sum.
///   n_over_k  N / K (the LLaMA-MoE v1 rule)           energy    sqrt(N K): the output's energy, for uncorrelated
///   experts k         K: each selected expert at weight 1      unbiased  N: the output's mean fixed     the value
///   given                          least_squares: OutputFit::least_squares()
/// Source   LLaMA-MoE v1 specification 1.11.
double closed_form_scale(const std::string& mode, int64_t experts, int64_t top_k, double fixed);

/// Sums over all tokens of the world that relate a layer's MoE output s (at scale 1) to the dense output y on the same
/// inputs.
struct OutputFit {
  double y_s = 0;          ///< sum <y, s>
  double s_s = 0;          ///< sum |s|^2
  double y_y = 0;          ///< sum |y|^2
  double whole_whole = 0;  ///< sum |y + shared|^2, where a shared part gives what is not left to the experts

  /// argmin over S of sum |y - S s|^2; 1 where s is 0 everywhere. NaN where a sum is.
  double least_squares() const { return s_s == 0 ? 1 : y_s / s_s; }
  /// sum |y - S s|^2 / sum |y + shared|^2; 0 where that is 0. NaN where a sum is.
  double relative_error(double scale) const {
    return whole_whole == 0 ? 0 : (y_y - 2 * scale * y_s + scale * scale * s_s) / whole_whole;
  }
};

/// Collective over `world`; y, s [T, D] of this rank's tokens. With a shared part, y is the dense output less `shared`,
/// what the part gives at its weight of 1.
OutputFit fit_output(const at::Tensor& y_TD, const at::Tensor& s_TD, Communicator& world,
                     const at::Tensor& shared_TD = {});

}  // namespace moe
