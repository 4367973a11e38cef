#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "comm/communicator.h"
#include "convert/layer_inputs.h"

namespace moe {

/// Router rows from the texts that experts should be chosen for: what the positive prompts of an expert are on average,
/// less what the negative ones are, brought to length 1. A prompt is, by `mode`,
///
///   hidden       the state of its last token before the layer
///   hidden_avg   the mean of its tokens' states before the layer
///   cheap_embed  the sum of its tokens' embeddings; here both averages have length 1 before they are subtracted, so
///                that long prompts do not outweigh short ones
///
/// [experts, D] float, the same bits at any number of ranks. Collective. Throws InvalidArgument, on every rank, where
/// states are not finite or an expert's prompts cancel out.
/// Source   Branch-Train-MiX (arXiv:2403.07816); what is made of prompts is retold in docs/methods.md.
at::Tensor prompt_router(const std::string& mode, const LayerInputs& inputs, Communicator& world);

}  // namespace moe
