#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "comm/communicator.h"

namespace moe {

/// The factor of logits at which the softmax probability of a token's likeliest expert is `target`, as the mean over
/// the tokens of all ranks. That mean rises with the factor, from 1 / E towards 1 (below it where largest logits are
/// equal). The same bits on every rank and at any number of them. Collective. `logits_TE`: of this rank's tokens, which
/// follow those of the ranks before.
/// Throws   InvalidArgument on every rank if no factor does it; `wanted_by` begins the message.
double factor_to_top_probability(const at::Tensor& logits_TE, double target, const std::string& wanted_by,
                                 Communicator& world);

}  // namespace moe
