#pragma once

#include <string>

#include "comm/communicator.h"

/// What the layer of ranks must give, on any communicator: each function is collective over `world` and compares with a
/// plain computation of its own on the data of all ranks, which every rank can make from the seed.
namespace moe::testing {

/// Two layers of dispatch, experts and combine through dispatcher `name` on every layout of `world` whose experts are
/// spread over `least_expert_parallel` ranks or more: values, traffic and the gradients of tokens, weights and experts
/// against a loop over tokens.
void check_dispatch(Communicator& world, const std::string& name, int least_expert_parallel = 1);

/// float32 outputs of dispatcher `name` have the bits of LocalDispatcher's.
void check_dispatch_bits(Communicator& world, const std::string& name);

/// sum_gradients and global_gradient_norm on every layout of `world`.
void check_gradient_sync(Communicator& world);

}  // namespace moe::testing
