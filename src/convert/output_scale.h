#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// What scale.mode may be: the factor of a layer's routed sum, of K chosen experts of N.
///   least_squares  OutputFit::least_squares()              k          K: each selected expert at weight 1
///   gap            StreamGap::scale()                      energy     sqrt(N K): the output's energy, of uncorrelated
///   n_over_k       N / K (the LLaMA-MoE v1 rule)           experts
///   sqrt_n_over_k  sqrt(N / K)                             unbiased   N: the output's mean
///   fixed          the value given                         per_layer  the layer's of the values given
/// Source   LLaMA-MoE v1 specification 1.11, v2 1.2.
const std::vector<std::string>& scale_modes();

/// Whether the scale is found on calibration text, layer by layer.
bool is_fitted(const v1::ScaleSpec& spec);

/// A scale that follows from numbers; `given`: of modes fixed and per_layer. Throws InvalidArgument for other modes.
double closed_form_scale(const std::string& mode, int64_t experts, int64_t top_k, double given);
/// The same of a spec; `place`: of the layer among those whose FFN, or whose attention, becomes experts.
double closed_form_scale(const v1::ScaleSpec& spec, int64_t experts, int64_t top_k, int64_t place);

/// Refuses, before any work, a scale that is not a positive number, and values that are not one of each of `layers`
/// layers. `section`: "scale" or "attention.scale". Throws InvalidArgument.
void check_scale_spec(const v1::ScaleSpec& spec, int64_t experts, int64_t top_k, int64_t layers,
                      const std::string& section);

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

/// Sums over all tokens of the world of the L1 norms of what a layer adds to the residual stream and of the stream
/// before it, in the dense model and in the one that is converted so far. The gap of a model is stream over output.
/// Source   LLaMA-MoE v1 specification 1.11 (calibrated), v2 6.5.
struct StreamGap {
  double dense_stream = 0;
  double dense_output = 0;
  double stream = 0;
  double output = 0;  ///< of the experts, at scale 1

  /// The converted model's gap over the dense one's: scaled by it, the experts add as much to their stream, in
  /// proportion, as the dense layer to its own. 1 where the experts give nothing. NaN where a sum is.
  double scale() const { return output == 0 ? 1 : stream * dense_output / (output * dense_stream); }
};

/// What experts and the dense layer add, where. [T, D] of this rank's tokens.
struct StreamOutputs {
  at::Tensor dense_stream_TD;
  at::Tensor dense_output_TD;  ///< on the dense stream, less what a shared part gives on it
  at::Tensor stream_TD;
  at::Tensor output_TD;  ///< on the converted stream, at scale 1, without a shared part
};
/// Collective.
StreamGap stream_gap(const StreamOutputs& outputs, Communicator& world);

}  // namespace moe
