#include "model/fresh_weights.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <map>
#include <string>

#include "testing/tiny_model.h"

namespace moe {
namespace {

std::map<std::string, at::Tensor> drawn(const ModelConfig& config, uint64_t seed, const OwnedExperts& owned) {
  const std::vector<Parameter> parameters = allocate_parameters(config, at::kFloat, owned);
  for (const Parameter& parameter : parameters) parameter.value.fill_(NAN);
  draw_fresh_weights(parameters, config, seed);
  std::map<std::string, at::Tensor> values;
  for (const Parameter& parameter : parameters) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) values[logical.name] = logical.view;
  }
  return values;
}

ModelConfig mixture() {
  ModelConfig config = testing::tiny_moe_config(4, 2, 12, 8, "qwen2");
  config.moe->router_noise = "learned";
  return config;
}

TEST(FreshWeightsTest, MatricesAreNormalNormsOneTheRestZero) {
  const ModelConfig config = mixture();
  int matrices = 0, norms = 0, zeros = 0;
  for (const auto& [name, value] : drawn(config, 3, all_experts(config))) {
    SCOPED_TRACE(name);
    if (name.ends_with("norm.weight")) {
      EXPECT_TRUE(value.eq(1).all().item<bool>());
      ++norms;
    } else if (name.ends_with(".bias") || name.ends_with("noise.weight")) {
      EXPECT_TRUE(value.eq(0).all().item<bool>());
      ++zeros;
    } else {
      // Six standard errors of mean and deviation.
      const double count = static_cast<double>(value.numel()), mean = value.to(at::kDouble).mean().item<double>(),
                   deviation = value.to(at::kDouble).std().item<double>();
      EXPECT_NEAR(mean, 0, 6 * kFreshDeviation / std::sqrt(count));
      EXPECT_NEAR(deviation, kFreshDeviation, 6 * kFreshDeviation / std::sqrt(2 * count));
      ++matrices;
    }
  }
  // Of 2 layers: 4 of attention, the router, 3 of 4 experts and of the shared one; embedding and head.
  EXPECT_EQ(matrices, 2 * (4 + 1 + 3 * 5) + 2);
  EXPECT_EQ(norms, 2 * 2 + 1);
  EXPECT_EQ(zeros, 2 * (3 + 1));
}

TEST(FreshWeightsTest, AreNamedBySeedTensorAndPlaceAlone) {
  const ModelConfig config = mixture();
  const auto whole = drawn(config, 3, all_experts(config)), other = drawn(config, 4, all_experts(config));
  for (int64_t first = 0; first < 4; first += 2) {
    for (const auto& [name, value] : drawn(config, 3, {.ffn = {first, 2}}))
      EXPECT_TRUE(at::equal(value, whole.at(name))) << name << " with experts from " << first;
  }
  EXPECT_FALSE(at::equal(whole.at("lm_head.weight"), other.at("lm_head.weight")));
  EXPECT_FALSE(at::equal(whole.at("model.layers.0.self_attn.q_proj.weight"),
                         whole.at("model.layers.1.self_attn.q_proj.weight")));
}

}  // namespace
}  // namespace moe
