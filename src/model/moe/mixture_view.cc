#include "model/moe/mixture_view.h"

#include <string>
#include <vector>

#include "model/ops.h"

namespace moe {

at::Tensor chosen_expert_output(const MixtureView& view, int64_t slot) {
  const at::NoGradGuard no_grad;
  const at::Tensor& ids_TK = view.routing.expert_ids_TK;
  const at::Tensor one_T1 = at::ones({ids_TK.size(0), 1}, view.routing.weights_TK.options());
  const DispatchedTokens dispatched =
      view.dispatcher.dispatch({view.x_TD, ids_TK.narrow(1, slot, 1).contiguous(), one_T1, view.options.num_experts,
                                "layer " + std::to_string(view.layer)});
  return view.dispatcher.combine(run_experts(view.weights, view.options, dispatched), dispatched);
}

at::Tensor chosen_expert_outputs(const MixtureView& view) {
  std::vector<at::Tensor> slots_TD;
  for (int64_t slot = 0; slot < view.routing.expert_ids_TK.size(1); ++slot)
    slots_TD.push_back(chosen_expert_output(view, slot));
  return at::stack(slots_TD, 1);
}

ExpertActivations chosen_expert_activations(const MixtureView& view) {
  const at::NoGradGuard no_grad;
  const DispatchedTokens dispatched =
      view.dispatcher.dispatch({view.x_TD, view.routing.expert_ids_TK, at::ones_like(view.routing.weights_TK),
                                view.options.num_experts, "layer " + std::to_string(view.layer)});
  ExpertActivations activations{.rows_RI = {},
                                .rows_per_expert = dispatched.rows_per_expert,
                                .experts = view.dispatcher.owned_experts(view.options.num_experts)};
  activations.rows_RI = expert_activations(view.weights, view.options, dispatched,
                                           [&](const at::Tensor& gates_RI) { activations.gates_RI = gates_RI; });
  return activations;
}

}  // namespace moe
