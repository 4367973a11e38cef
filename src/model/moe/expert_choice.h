#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "model/moe/router_noise.h"

// T tokens, K top-k.
namespace moe {

/// How the experts of a token are chosen. The weights are the router's in any case.
enum class ExpertChoice {
  kRouter,  ///< by its scores
  kRandom,  ///< any top_k, every set of them alike likely (LLaMA-MoE v1's RandomLearnable gate)
  kFirst,   ///< 0 to top_k - 1, of every token
};
ExpertChoice parse_expert_choice(const std::string& name);

/// A choice of a pass that need not be the routers'.
struct PassChoice {
  ExpertChoice choice = ExpertChoice::kRouter;
  NoiseSource source{};  ///< of kRandom: a token's experts depend on it, its place and the router alone
};

/// The experts that this choice gives each of `tokens` tokens at one router, [T, K] int64; undefined where the router
/// chooses. `router`: as noise_draws has it.
at::Tensor chosen_ids(const PassChoice& pass, int64_t router, int64_t tokens, int64_t experts, int64_t top_k,
                      const at::Device& device);

}  // namespace moe
