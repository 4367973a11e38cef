#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `sequential`: expert e takes neurons [e * size, (e + 1) * size), without scores or data.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), the "vanilla" split.
ConversionMethod sequential();

}  // namespace moe
