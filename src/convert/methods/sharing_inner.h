#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `sharing_inner`: each expert has the neurons that are most important to its text. Experts overlap, and some neurons
/// are in none.
/// Source   LLaMA-MoE (arXiv:2406.16554), Sharing-Inner; with clusters "router", share_neurons of LLaMA-MoE v2.
ConversionMethod sharing_inner();

}  // namespace moe
