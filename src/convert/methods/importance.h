#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `importance`: every neuron to one expert, by its importance to the tokens that the expert is routed.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), "Gradient Split".
ConversionMethod split_by_importance();

}  // namespace moe
