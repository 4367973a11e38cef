#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `weave`: what the gate does on each document says where a neuron belongs. With a_ij = |mean over the tokens of
/// document j of silu(gate_i x)|, the shared part takes the neurons of the largest mean a, the experts are equal
/// clusters of the rows a_i of the others, and an expert's router row is the mean of its neurons' gate rows.
///
/// Source   ExpertWeaver (arXiv:2602.15521), its uniform form: `shared_experts` in every layer. Its rule by the
///          variation of a, under which the numbers of routed and of chosen experts differ from layer to layer, has no
///          place in a model that has one of each. Rows are clustered as directions (balanced_kmeans), so that neurons
///          that speak up in the same documents go together, however loud they are. Without training the paper sums
///          the chosen experts at weight 1: topk_norm straight_through, scale.mode fixed, scale.value 1.
ConversionMethod weave();

}  // namespace moe
