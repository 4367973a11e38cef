#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/layer_inputs.h"
#include "convert/output_scale.h"
#include "model/moe/moe_layer.h"

namespace moe {

/// A converted layer on the calibration tokens.
struct FitRequest {
  const ModelConfig& config;  ///< of the dense model
  const v1::ConvertSpec& spec;
  std::string source;  ///< path of the dense model, for messages
  int64_t layer = 0;
  int64_t place = 0;  ///< among the layers whose FFN becomes experts
  const FeedForwardWeights& dense;
  const LayerFeatures& features;
};

/// What calibration finds: the output scale that the spec asks for, and what the report says.
struct LayerFit {
  double scale = 1;
  double relative_error = 0;  ///< of the layer's FFN output, with that scale, against the dense one
  double router_logit_deviation = 0;
  std::vector<int64_t> expert_load;  ///< (token, slot) pairs of all ranks per expert
  at::Tensor output_TD;              ///< of this rank's tokens of the converted stream
};

/// `weights`: in float, with the router as it will be read back. Collective. Throws InvalidArgument on every rank where
/// values or sums are not finite.
LayerFit fit_layer(const FitRequest& request, MoeWeights weights, Communicator& world);

/// The sum over ranks of tokens_per_expert_E.
std::vector<int64_t> load_of_ranks(const at::Tensor& tokens_per_expert_E, Communicator& world);

/// Whose scale is asked for: of `top_k` of `experts`.
struct ScaleRequest {
  const v1::ScaleSpec& spec;
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t layer = 0;
  int64_t place = 0;  ///< among the layers whose FFN, or whose attention, becomes experts
};
/// The scale of a layer's routed sum that the spec asks for, and the error that it leaves.
struct FittedScale {
  double scale = 1;
  double relative_error = 0;
};
/// `gap`: with mode gap. Throws InvalidArgument on every rank where one is not finite.
FittedScale fitted_scale(const ScaleRequest& request, const OutputFit& fit, const std::optional<StreamGap>& gap);

struct NamedValues {
  const char* what;
  const at::Tensor& values;
};
/// Throws, on every rank, if a value on the calibration text is NaN or infinite: a scale or a router made from it would
/// be noise. (Weights are known to be finite: reading them checks it.) Collective.
void require_finite(const FitRequest& request, std::initializer_list<NamedValues> checked, Communicator& world);
/// The same; `source`: path of the dense model.
void require_finite(const std::string& source, int64_t layer, std::initializer_list<NamedValues> checked,
                    Communicator& world);

}  // namespace moe
