#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "model/moe/router_noise.h"

namespace moe {

/// Experts take floor(factor * tokens / experts) tokens of a micro-batch on all ranks at most; of an expert that more
/// chose, a uniformly random part of them. A token's random number is named by seed, step, router and place, and those
/// with the greatest stay, so that the same are dropped however the tokens lie on ranks. For TokenLimit::kept.
/// Collective over `world`.
///
/// Cost     all-gathers the choices of the micro-batch, 8 bytes a token, for each layer; reads them from the device.
/// Source   LLaMA-MoE v1's SwitchDropTokenCalculator, arXiv:2406.16554; Fedus et al. 2021 (Switch), arXiv:2101.03961.
class TokenCapacity {
 public:
  TokenCapacity(double factor, Communicator& world) : factor_(factor), world_(world) {}

  /// A micro-batch of `tokens` tokens on all ranks, of which `before` lie on the ranks before this one.
  /// `source.first_token`: the place in the step of the first of all.
  void begin(const NoiseSource& source, int64_t tokens, int64_t before);

  /// As TokenLimit::kept, of a layer of the micro-batch.
  at::Tensor kept(const at::Tensor& ids_T, int64_t num_experts, int64_t layer);

  /// Tokens that were dropped on all ranks, summed over layers and micro-batches; the same on every rank.
  int64_t dropped() const { return dropped_; }

 private:
  double factor_;
  Communicator& world_;
  NoiseSource source_{};
  int64_t tokens_ = 0;
  int64_t before_ = 0;
  int64_t dropped_ = 0;
};

}  // namespace moe
