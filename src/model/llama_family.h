#pragma once

#include "model/model_families.h"

namespace moe {

/// LLaMA: RMSNorm, RoPE (half-split), grouped-query attention without biases, SwiGLU, tied or untied head.
/// Source   Touvron et al. 2023, arXiv:2302.13971; Hugging Face `LlamaForCausalLM`.
ModelFamily llama_family();

}  // namespace moe
