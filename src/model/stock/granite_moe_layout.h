#pragma once

#include <string>

#include "model/stock/stock_layout.h"

namespace moe {

/// `granitemoeshared` (and `granitemoe`, the same without a shared expert): a LLaMA whose experts are stacked, with an
/// expert that sees every token at weight 1; weights renormalised over the chosen. Its multipliers must be those of a
/// LLaMA.
///
/// Source   Hugging Face `GraniteMoeSharedForCausalLM`, `GraniteMoeForCausalLM`.
StockLayout granite_moe_layout(const std::string& model_type);

}  // namespace moe
