#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/moe/moe_layer.h"

// T tokens, D hidden, K top-k.
namespace moe {

/// What a mixture did with the tokens of a pass, for who looks into it (ForwardOptions::mixture_observer). Refers to
/// values of the pass that are there until the observer returns.
struct MixtureView {
  int64_t layer;
  const MoeWeights& weights;
  const MoeOptions& options;
  const at::Tensor& x_TD;  ///< what router and experts read
  const Routing& routing;
  const at::Tensor& y_TD;  ///< what it gave, shared expert and output bias included
  TokenDispatcher& dispatcher;
};

/// What each chosen expert gives for each token, in the order of routing.expert_ids_TK, without weight and scale:
/// [T, K, D]. Computed a second time, a slot after the other, so that the pass itself is as it was. Collective: the
/// ranks of the dispatcher ask for it together. No gradient.
at::Tensor chosen_expert_outputs(const MixtureView& view);
/// Those of one slot: [T, D].
at::Tensor chosen_expert_output(const MixtureView& view, int64_t slot);

/// What the neurons of this rank's experts give for the tokens of all ranks of the dispatcher that chose them.
struct ExpertActivations {
  at::Tensor rows_RI;          ///< by expert; beyond an expert's own width there are zeros
  at::Tensor rows_per_expert;  ///< int64 [owned experts]
  ExpertRange experts;         ///< global ids
  at::Tensor gates_RI{};       ///< what their gates give before silu, as rows_RI; undefined where there are none
};

/// Computed a second time too. Collective as above. No gradient.
ExpertActivations chosen_expert_activations(const MixtureView& view);

}  // namespace moe
