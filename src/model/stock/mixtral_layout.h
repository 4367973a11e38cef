#pragma once

#include "model/stock/stock_layout.h"

namespace moe {

/// `mixtral`: a LLaMA without biases whose experts are w1 (gate), w3 (up), w2 (down); weights renormalised over the
/// chosen.
///
/// Source   Jiang et al. 2024, arXiv:2401.04088; Hugging Face `MixtralForCausalLM`.
StockLayout mixtral_layout();

}  // namespace moe
