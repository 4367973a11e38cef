#pragma once

#include "model/model_families.h"

namespace moe {

/// Phi-1, 1.5 and 2: one LayerNorm per layer, which attention and FFN both read (a parallel block), RoPE on a part of
/// each head, an FFN without a gate (gelu_new), biases everywhere, the head included.
///
/// Source   Li et al. 2023, arXiv:2309.05463; Hugging Face `PhiForCausalLM`.
ModelFamily phi_family();

}  // namespace moe
