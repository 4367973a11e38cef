#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "comm/communicator.h"
#include "convert/calibration_text.h"

// T tokens of this rank, D channels of the hidden state.
namespace moe {

/// Mean and variance of each channel over the tokens of all ranks. Double, [D].
struct ChannelStatistics {
  at::Tensor mean_D, variance_D;
};

/// In two passes, sums in one order (RowSums): the same bits at any number of ranks. y_TD: the outputs of this rank's
/// `rows`. Collective.
ChannelStatistics channel_statistics(const at::Tensor& y_TD, const TextRows& rows, Communicator& world);

/// What makes the output of a converted layer have the statistics of the dense layer's, channel by channel:
///   y' = a (y - its bias) + b,   a = sqrt(dense variance / converted variance),   b = dense mean - a mean(y - bias)
/// y is the whole output, routed sum times output scale, shared part and all, so that both are aligned jointly and no
/// factor of the scale is left for b.
/// Source   LLaMA-MoE v2's code, with the corrections of its specification (3.3).
struct ChannelAlignment {
  at::Tensor factor_D;         ///< a, double: of the rows of every down projection, routed and shared
  at::Tensor output_bias_D{};  ///< b, double: the output bias from now on; undefined: what was there stays (variance)
  int64_t kept_channels = 0;   ///< whose factor is 1, since what the layer gives hardly varies there

  /// down_DI times the factors, in double.
  at::Tensor scale_rows(const at::Tensor& down_DI) const;
  /// Of outputs whose bias is bias_D (undefined: none).
  at::Tensor align(const at::Tensor& y_TD, const at::Tensor& bias_D) const;
  /// For conversion.json: least, mean and greatest of a and b.
  nlohmann::json describe() const;
};

/// `mode` "variance" or "mean_variance"; bias_D [D] is in `converted`'s mean, undefined where there is none. A channel
/// whose converted variance is below 1e-12 of the dense one (of zeros, or of one token) keeps its factor: beyond 1e6
/// it would raise rounding noise.
ChannelAlignment alignment_to(const ChannelStatistics& dense, const ChannelStatistics& converted,
                              const at::Tensor& bias_D, const std::string& mode);

}  // namespace moe
