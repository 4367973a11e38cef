#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "model/feed_forward.h"
#include "model/layer_statistics.h"
#include "model/moe/expert_choice.h"
#include "model/moe/router.h"
#include "model/moe/router_noise.h"
#include "model/moe/router_stats.h"
#include "model/moe/shared_gate.h"
#include "model/moe/token_dispatcher.h"
#include "model/moe/token_limit.h"

// T tokens, D hidden, E experts, K top-k, R rows in expert order, I width of an expert; of a shared gate R rows.
namespace moe {

struct MoeWeights {
  RouterWeights router;
  at::Tensor gate_up;  ///< [owned experts, 2I, D], the gate's rows first; without a gate [owned experts, I, D]
  at::Tensor down;     ///< [owned experts, D, I]
  std::optional<FeedForwardWeights> shared;  ///< sees every token, not scaled; weight 1 but for its gate
  at::Tensor gate_up_bias{};                 ///< of the rows of gate_up; undefined where there is none
  at::Tensor output_bias{};                  ///< [D]: added once per token, not scaled; undefined where there is none
  at::Tensor shared_gate_RD{};               ///< undefined where there is none
};

struct MoeOptions {
  int64_t num_experts = 0;
  RouterOptions router{};
  double output_scale = 1;
  bool is_gated = true;  ///< down(silu(gate x) * up x); otherwise down(gelu_new(up x))
  SharedGateOptions shared_gate{};
};

struct MoeOutput {
  at::Tensor y_TD;
  RouterStats stats;
};

/// What a forward pass may want of a layer beside its result.
struct MoePass {
  LayerStatistics* statistics = nullptr;  ///< router_entropy and other numbers of common/measures.h are added to them
  bool keeps_routing = false;             ///< the stats have RouterStats::routing
  const NoiseSource* noise = nullptr;     ///< of a training pass
  PassChoice choice{};
  const TokenLimit* limit = nullptr;
};

/// What the neurons of this rank's experts give for the rows that were sent to them: [R, I]. Beyond an expert's own
/// width there are zeros, which `see_gates` sees too.
at::Tensor expert_activations(const MoeWeights& weights, const MoeOptions& options, const DispatchedTokens& dispatched,
                              const GateObserver& see_gates = {});

/// What this rank's experts give for the rows that were sent to them, before any weight. [R, D]
at::Tensor run_experts(const MoeWeights& weights, const MoeOptions& options, const DispatchedTokens& dispatched);

/// y = output_scale * sum over the chosen experts of weight * expert(x), + shared(x) + output_bias: route, dispatch,
/// experts, combine; shared(x) as its gate weighs it (shared_gate.h). `layer` names the collectives of the dispatcher,
/// and the noise. Of a token that `pass.limit` drops, zero or x stands for expert(x); the stats count what was chosen.
/// A limit is of top-1 alone.
MoeOutput moe_layer(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                    TokenDispatcher& dispatcher, int64_t layer, const MoePass& pass = {});

}  // namespace moe
