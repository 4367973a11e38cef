#pragma once

#include "model/stock/stock_layout.h"

namespace moe {

/// `qwen2_moe`: Qwen2 attention (always with q, k and v biases), weights renormalised or not, and a shared expert
/// behind a sigmoid gate: our shared_gate sigmoid, whose scale stands in the down projection. Where we have none, a
/// gate of 1e-20 makes that sigmoid exactly 1/2 (zeros would be 0/0 in a client that computes it as silu(z)/z), so that
/// a shared expert is stored with its down projection doubled, and no shared expert as a dummy of zeros.
///
/// Source   Hugging Face `Qwen2MoeForCausalLM`.
StockLayout qwen2_moe_layout();

/// Width of the dummy: clients disagree on a shared expert of width 0.
inline constexpr int64_t kDummySharedWidth = 256;

}  // namespace moe
