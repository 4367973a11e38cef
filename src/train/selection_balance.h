#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "model/moe/moe_layer.h"
#include "model/parameters.h"

// T tokens of a step, E experts, K top-k, L MoE layers.
namespace moe {

/// What moves selection biases.
enum class BiasRule {
  kLoad,      ///< b += rate * sign(mean load - load), then recentred to a mean of 0
  kQuantile,  ///< b = -beta; beta_e = the (floor(T K / E) + 1)-th largest over tokens of score_te - alpha_t, where
              ///< alpha_t is the (K + 1)-th largest over experts of score + b: by that beta each expert is wanted by
              ///< its share
};

/// Moves the selection biases of a mixture's routers once per optimizer step, by how all tokens of the step were
/// routed: of all ranks and micro-steps, each counted once. Rows have no padding, so every token counts. What it makes
/// depends on the routed tokens alone, to the bit, and not on the ranks and micro-steps that they lie in; it is the
/// same on every rank. Holds a step's scores for kQuantile: T E of each layer.
///
/// Source   kLoad: Wang et al. 2024, arXiv:2408.15664, as in DeepSeek-V3 (arXiv:2412.19437). kQuantile: quantile
///          balancing, Su Jianlin 2026; the quantile is exact, the balance is approached step by step.
class SelectionBalance {
 public:
  /// `parameters`: of a decoder, of which it takes the selection biases of FFNs, or of attention; `rate` of kLoad.
  SelectionBalance(const std::vector<Parameter>& parameters, int64_t top_k, BiasRule rule, double rate,
                   bool of_attention = false);

  /// Before the forward passes of a step: forgets those of one that made no update.
  void begin();
  /// Whether add() needs RouterStats::routing.
  bool reads_each_token() const { return rule_ == BiasRule::kQuantile; }
  /// This rank's tokens of a micro-step. The same number of times on every rank.
  void add(const std::vector<RouterStats>& routers);
  /// After the optimizer's update. Collective.
  void update(Communicator& world);

 private:
  void move_by_load();
  void move_to_quantiles(Communicator& world);

  std::vector<at::Tensor> biases_E_;  ///< [L], the decoder's own
  int64_t top_k_;
  BiasRule rule_;
  double rate_;
  at::Tensor load_LE_;                  ///< counts of this step
  std::vector<at::Tensor> margins_TC_;  ///< of each micro-step: scores - alpha, C = L E
};

}  // namespace moe
