#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "convert/layer_fit.h"
#include "convert/layer_inputs.h"
#include "model/attention.h"
#include "model/attention_experts.h"
#include "model/layer_context.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// Attention experts of a layer on the calibration tokens.
struct AttentionFitRequest {
  const v1::AttentionExpertsSpec& spec;
  std::string source;  ///< path of the dense model, for messages
  int64_t layer = 0;
  int64_t place = 0;  ///< among the layers whose attention becomes experts
  const AttentionWeights& dense;
  const LayerFeatures& features;
  const LayerContext& context;  ///< of the text, with the dense model's config
};

/// As fit_layer(), of attention: the factor of what chosen experts give is fitted to what those that are always on
/// leave of the dense output. `experts`: in float, all of them. Collective. Throws InvalidArgument on every rank where
/// values or sums are not finite.
LayerFit fit_attention(const AttentionFitRequest& request, MoeAttention experts, Communicator& world);

}  // namespace moe
