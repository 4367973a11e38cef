#pragma once

#include "model/model_families.h"

namespace moe {

/// Qwen2 and Qwen2.5: LLaMA with biases of q, k and v (o never), and a sliding window where config.json switches it on.
/// Source   Yang et al. 2024, arXiv:2407.10671; Hugging Face `Qwen2ForCausalLM`.
ModelFamily qwen2_family();

}  // namespace moe
