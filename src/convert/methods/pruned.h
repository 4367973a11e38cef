#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `pruned_random`, `pruned_gradient`: one expert of ffn.expert_width neurons, the rest of the FFN left out. A
/// baseline: what a part of a dense model is worth that is as large as the experts that a mixture uses. Source
/// LLaMA-MoE v1 code (llama_prune_random.py, llama_prune_gradient.py).
ConversionMethod pruned_random();
ConversionMethod pruned_gradient();

}  // namespace moe
