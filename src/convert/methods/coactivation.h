#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `coactivation`: experts are parts of the graph whose edges tell how often two neurons are active on the same token
/// (convert/coactivation.h, graph_partition.h).
/// Source   LLaMA-MoE v1 code (GraphSplit): the threshold of an edge, its weight and parts of equal size. Not from it:
///          it sums products of activations, capped once a shard of text, so that the shards decide what counts; here
///          tokens are counted, on which a neuron is active if it is among the share `active` that gives most. Nor
///          does METIS part the graph, and no node is moved at random.
ConversionMethod coactivation();

}  // namespace moe
