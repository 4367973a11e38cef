#pragma once

#include <string>

#include "moe/v1/job.pb.h"

/// Jobs that convert attention, for tests.
namespace moe::testing {

/// Attention alone, all fields set that have a default; no text asked for.
inline v1::ConvertSpec attention_spec(int experts, int top_k, const std::string& grouping = "contiguous") {
  v1::ConvertSpec spec;
  spec.set_dtype("source");
  v1::AttentionExpertsSpec& attention = *spec.mutable_attention();
  attention.set_experts(experts);
  attention.set_top_k(top_k);
  attention.set_grouping(grouping);
  attention.set_kv_mode("routed");
  attention.set_always_on(0);
  attention.mutable_router()->set_init("kaiming");
  attention.mutable_router()->set_scaling("calibrated");
  attention.mutable_router()->set_topk_norm(top_k == 1 ? "straight_through" : "renorm");
  attention.mutable_router()->set_score("softmax");
  attention.mutable_scale()->set_mode("n_over_k");
  spec.mutable_calibration()->set_tokens(1024);
  return spec;
}

inline void set_fixed_scale(v1::ScaleSpec& scale, double value) {
  scale.set_mode("fixed");
  scale.set_value(value);
}

}  // namespace moe::testing
