#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `residual`: the neurons that most experts would have among their best are shared, the others are given to one
/// expert each, by importance to the tokens that the expert is routed.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), residual MoE.
ConversionMethod residual();

}  // namespace moe
