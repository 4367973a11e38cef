#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "convert/method_options.h"
#include "convert/router_init.h"
#include "model/feed_forward.h"

/// Inputs that router inits are made of, and routers made of them.
namespace moe::testing {

inline constexpr int64_t kTokens = 600, kHidden = 48, kExperts = 7;

/// MLP inputs as real ones are: a strong common direction, and tokens of very different length. [tokens, hidden]
at::Tensor features();

/// The init's own, at their defaults but for `given`.
MethodOptions options_of(const std::string& init, const std::map<std::string, std::string>& given = {},
                         const std::string& scaling = "calibrated");

/// Experts that are cut from an FFN of 70 neurons, ten after the other; the FFN itself in `dense`.
void give_experts(RouterRequest& request, FeedForwardWeights& dense);

/// The router that `init` makes of the features, spread unevenly over `ranks` ranks.
RouterWeights make_weights(const std::string& init, const std::string& scaling, int ranks, RouterGate gate,
                           int64_t layer = 0, uint64_t seed = 21, const MethodOptions& options = {});

/// The rows of a linear one.
at::Tensor make_router(const std::string& init, const std::string& scaling, int ranks, int64_t layer = 0,
                       uint64_t seed = 21);

/// In double, by the definition.
double logit_deviation(const at::Tensor& router);

}  // namespace moe::testing
