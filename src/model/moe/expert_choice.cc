#include "model/moe/expert_choice.h"

#include "common/error.h"
#include "common/rng.h"
#include "model/device.h"

namespace moe {

ExpertChoice parse_expert_choice(const std::string& name) {
  if (name == "router") return ExpertChoice::kRouter;
  if (name == "random") return ExpertChoice::kRandom;
  if (name == "first") return ExpertChoice::kFirst;
  throw InvalidArgument(concat("routing '", name, "'; expected router, random or first"));
}

at::Tensor chosen_ids(const PassChoice& pass, int64_t router, int64_t tokens, int64_t experts, int64_t top_k,
                      const at::Device& device) {
  switch (pass.choice) {
    case ExpertChoice::kRouter: return {};
    case ExpertChoice::kFirst:
      return at::arange(top_k, at::TensorOptions(device).dtype(at::kLong)).expand({tokens, top_k}).contiguous();
    case ExpertChoice::kRandom: break;
  }
  // The order of numbers drawn alike is a random permutation, of which the first K are any K.
  const at::Tensor draws_TE = uniform_draws(pass.source, kStreamRandomRouting, router, tokens, experts);
  const at::Tensor order_TE = std::get<1>(at::sort(draws_TE, /*stable=*/true, 1, /*descending=*/true));
  return on_device(order_TE.narrow(1, 0, top_k).contiguous(), device);
}

}  // namespace moe
