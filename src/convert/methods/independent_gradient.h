#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `independent_gradient`: every neuron to one expert, by its importance to the text of the expert, the largest first
/// (greedy_assignment).
/// Source   LLaMA-MoE v1 code (arXiv:2406.16554), Independent-Gradient. It compares the scores of text clusters as they
///          are; by default each is divided by its sum here.
ConversionMethod independent_gradient();

}  // namespace moe
