#pragma once

#include "model/stock/stock_layout.h"

namespace moe {

/// `llama_moe`: a LLaMA-MoE v1 as its authors publish it, with a linear gate or one of two layers whose weights are a
/// softmax over the chosen logits, or experts that count with weight 1; the noise that its training adds; a scale for
/// each layer, experts of any widths. Read only.
///
/// Source   Zhu et al. 2024, arXiv:2406.16554; `LlamaMoEForCausalLM` of pjlab-sys4nlp/llama-moe.
StockLayout llama_moe_layout();

/// The `model_type` of those with shared experts, which that layout refuses.
inline constexpr char kLlamaMoeResidual[] = "llama_moe_residual";

}  // namespace moe
