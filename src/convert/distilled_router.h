#pragma once

#include <vector>

#include "comm/communicator.h"
#include "convert/router_init.h"

namespace moe {

/// Settings of router.init distilled.
const std::vector<MethodOption>& distillation_options();

/// A router that is taught, on the FFN inputs of the calibration text, to choose the experts whose neurons give most in
/// the dense FFN: by AdamW, from the mean of the experts' unit weight rows, its second layer from the identity. Nothing
/// is dumped, and the dense model is not changed. Of every 20 tokens one is kept aside, on which the epoch with the
/// best recall of the top_k experts is chosen; that is the router's recall. Every rank learns the same from the tokens
/// of all, in one order: the same bits at any number of ranks. With scaling "calibrated" logits are then brought to a
/// standard deviation of 1, which changes no choice. Collective.
/// Cost     2 T D E multiplications an epoch and direction, on one thread; T D floats.
/// Source   MoEfication (arXiv:2110.01786), as LLaMA-MoE v1 specification 2.7.
InitialRouter distilled_router(const RouterRequest& request, Communicator& world);

}  // namespace moe
