#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/moe/router.h"

// T tokens, E experts.
namespace moe {

/// Where the random numbers of a training pass's routers come from. A number is named by (seed, step, router, place of
/// its token in the step, expert) and is the same whatever ranks, micro-batches and attempts the tokens lie in.
struct NoiseSource {
  uint64_t seed = 0;
  int64_t step = 0;         ///< of the optimizer
  int64_t first_token = 0;  ///< place of the pass's first token among all of the step, whose tokens follow each other
};

/// The numbers of one router for `tokens` tokens, [T, E] double on the CPU: standard normal of kLearned, standard
/// Gumbel (-log(-log u)) of kGumbel; undefined of kNone. `router`: its number in the model, below 2^15: of an FFN's the
/// layer. At most 2^17 experts, 2^32 tokens a step and 2^32 steps.
at::Tensor noise_draws(const NoiseSource& source, RouterNoise noise, int64_t router, int64_t tokens, int64_t experts);

/// Numbers named alike, uniform on (0, 1), for another purpose (an RngStream). [tokens, columns] double on the CPU.
at::Tensor uniform_draws(const NoiseSource& source, uint32_t stream, int64_t router, int64_t tokens, int64_t columns);

/// The number of the router of a layer's attention, where an FFN's is the layer. Layers are below 2^14.
constexpr int64_t attention_router(int64_t layer) {
  return (int64_t{1} << 14) + layer;
}

}  // namespace moe
