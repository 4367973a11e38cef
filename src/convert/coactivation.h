#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "convert/graph_partition.h"

/// The graph of neurons that are active together. Source: LLaMA-MoE v1 code (GraphSplit, v1 specification 1.8), from
/// which come the threshold, the edges and their weights. What is weighed does not: v1 sums products of activations
/// over a shard of the text and caps the sum at 1, so that shards decide what counts; here tokens are counted.
namespace moe {

/// Of each token, of all ranks in their order, the `active` neurons that give most (by absolute value; of equal ones
/// the lower), ascending. Collective. activations_TF float, finite -> [tokens, active] int32
at::Tensor active_neurons(const at::Tensor& activations_TF, int64_t active, Communicator& world);

/// The tokens on which neurons are active together.
class Coactivation {
 public:
  /// `active_TA` as of active_neurons().
  Coactivation(const at::Tensor& active_TA, int64_t neurons);

  int64_t neurons() const { return neurons_; }
  int64_t tokens() const { return tokens_; }
  /// With each neuron above this one: on how many tokens both are active. counts[neuron + 1 ...] are written.
  void count(int64_t neuron, std::vector<int32_t>& counts) const;

 private:
  int64_t neurons_, tokens_, active_;
  at::Tensor active_TA_;
  std::vector<int64_t> first_place_;  ///< [neurons + 1]
  std::vector<int64_t> places_;       ///< where in active_TA_ a neuron stands, from first_place_[neuron] on
};

/// Weight of the edge between two neurons that are active together on so many tokens: floor(count / t), where t is 0.99
/// of the first decile of all pairs' counts that is not 0. Counts below t make no edge; 65535 at most.
/// pairs_of_count: how many pairs of neurons have each count. [as many]
std::vector<uint16_t> edge_weights(const std::vector<int64_t>& pairs_of_count);

/// The graph of all pairs. Whole numbers alone, so that no bit depends on threads, ranks or the order of the tokens.
/// Cost     F^2 edges of 2 bytes and 12 bytes for each active neuron of a token: 411 MB and 71 MB at F = 14336, 4096
///          tokens and a tenth active. Pairs are counted twice, T A^2 / 2 steps each, instead of being kept: 12 s there
///          on one core.
EdgeWeights coactivation_edges(const Coactivation& together);

}  // namespace moe
