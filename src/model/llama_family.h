#pragma once

#include "model/model_families.h"

namespace moe {

/// LLaMA 2 and 3: RMSNorm, RoPE (half-split, every scaling of model/rope.h), grouped-query attention, SwiGLU, tied or
/// untied head; biases of the attention (q, k, v, o) and of the FFN by `attention_bias` and `mlp_bias`.
///
/// Source   Touvron et al. 2023, arXiv:2302.13971; Hugging Face `LlamaForCausalLM`.
ModelFamily llama_family();

}  // namespace moe
