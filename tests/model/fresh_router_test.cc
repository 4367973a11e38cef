// Routers drawn anew.
#include "model/moe/fresh_router.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "testing/tiny_model.h"

namespace moe {
namespace {

/// Mixtures behind attention of experts, with selection biases; this rank owns some of the experts.
Decoder model_with_routers(const OwnedExperts& experts, const std::string& gate = "linear") {
  ModelConfig config = testing::with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 2);
  config.moe->router = gate;
  config.moe->has_selection_bias = true;
  Decoder decoder(config, at::kDouble, experts);
  testing::fill_random(decoder, 1);
  return decoder;
}

std::map<std::string, at::Tensor> copies_of(const Decoder& decoder) {
  std::map<std::string, at::Tensor> copies;
  for (const Parameter& parameter : decoder.parameters()) copies[parameter.name] = parameter.value.clone();
  return copies;
}

// Philox 4x32-10 written in Python, of seed 5, stream and layer: the first numbers of a row of 32.
TEST(FreshRouterTest, DrawsTheNumbersOfSeedStreamAndLayer) {
  Decoder decoder = model_with_routers({{0, 4}, {0, 4}});
  draw_routers(decoder.parameters(), 5);
  const std::map<std::pair<int64_t, bool>, std::vector<double>> expected{
      {{0, false}, {0.08149319887161255, -0.17633368074893951, -0.07715710252523422}},
      {{1, false}, {-0.13404028117656708, 0.007113258820027113, -0.07912664860486984}},
      {{1, true}, {-0.08972447365522385, -0.12628696858882904, 0.0813821405172348}}};
  size_t found = 0;
  for (const Parameter& parameter : decoder.parameters()) {
    const auto row = expected.find({parameter.id.layer, parameter.id.routes_attention});
    if (parameter.id.part != TensorPart::kRouter || row == expected.end()) continue;
    ++found;
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(parameter.value[0][i].item<double>(), row->second[i]) << parameter.name;
    EXPECT_LE(parameter.value.abs().max().item<double>(), 1 / std::sqrt(32.0));
  }
  EXPECT_EQ(found, expected.size());
}

TEST(FreshRouterTest, LeavesAllButRoutersAndClearsTheirBiases) {
  Decoder decoder = model_with_routers({{0, 4}, {0, 4}});
  const std::map<std::string, at::Tensor> before = copies_of(decoder);
  draw_routers(decoder.parameters(), 5);
  for (const Parameter& parameter : decoder.parameters()) {
    SCOPED_TRACE(parameter.name);
    if (parameter.id.part == TensorPart::kSelectionBias) {
      EXPECT_EQ(parameter.value.abs().max().item<double>(), 0);
    } else {
      EXPECT_EQ(at::equal(parameter.value, before.at(parameter.name)), parameter.id.part != TensorPart::kRouter);
    }
  }
}

// The two matrices of a gate are not the same numbers, and no rank's experts change what is drawn.
TEST(FreshRouterTest, EveryMatrixOfAGateTheSameOnEveryRank) {
  for (const char* gate : {"mlp", "product"}) {
    SCOPED_TRACE(gate);
    Decoder whole = model_with_routers({{0, 4}, {0, 4}}, gate), half = model_with_routers({{2, 2}, {2, 2}}, gate);
    draw_routers(whole.parameters(), 5);
    draw_routers(half.parameters(), 5);
    const std::map<std::string, at::Tensor> of_whole = copies_of(whole);
    at::Tensor first;
    int matrices = 0;
    for (const Parameter& parameter : half.parameters()) {
      if (!is_of_router(parameter.id.part) || parameter.id.routes_attention) continue;
      EXPECT_TRUE(at::equal(parameter.value, of_whole.at(parameter.name))) << parameter.name;
      ++matrices;
      if (parameter.id.part == TensorPart::kRouter) {
        first = parameter.value;
      } else {
        EXPECT_NE(parameter.value[0][0].item<double>(), first[0][0].item<double>());
        EXPECT_LE(parameter.value.abs().max().item<double>(), 1 / std::sqrt(parameter.value.size(1)));
      }
    }
    EXPECT_EQ(matrices, 4);
  }
}

}  // namespace
}  // namespace moe
