#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// Experts are the clusters of a balanced k-means over the neurons' up (or gate) rows, as unit vectors.
/// Source   LLaMA-MoE (arXiv:2406.16554), Independent-Clustering. The assignment is exact on squared distances where
///          the published code takes distances rounded to three decimals, with which a step may raise the objective.
ConversionMethod independent_clustering();

}  // namespace moe
