#include "model/parameters.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <type_traits>

#include "common/error.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::tiny_config;
using testing::tiny_moe_config;

std::map<std::string, std::vector<int64_t>> as_map(const std::vector<TensorSpec>& specs) {
  std::map<std::string, std::vector<int64_t>> map;
  for (const TensorSpec& spec : specs) {
    EXPECT_TRUE(map.emplace(spec.name, spec.shape).second) << spec.name << " twice";
  }
  return map;
}

TEST(LogicalTensorSpecsTest, NamesOfADenseModel) {
  ModelConfig config = tiny_config();
  const auto untied = as_map(logical_tensor_specs(config));
  EXPECT_EQ(untied.size(), 3u + 2 * 9);
  EXPECT_EQ(untied.at("model.layers.1.self_attn.k_proj.weight"), (std::vector<int64_t>{16, 32}));
  EXPECT_EQ(untied.at("model.layers.0.mlp.down_proj.weight"), (std::vector<int64_t>{32, 48}));
  EXPECT_EQ(untied.at("lm_head.weight"), (std::vector<int64_t>{61, 32}));
  config.tie_word_embeddings = true;
  EXPECT_EQ(as_map(logical_tensor_specs(config)).count("lm_head.weight"), 0u);
}

TEST(LogicalTensorSpecsTest, NamesOfAMixture) {
  ModelConfig config = tiny_moe_config(3, 2, 12);
  config.moe->expert_widths = {12, 20};
  config.moe->shared_widths = {0, 5};
  const auto specs = as_map(logical_tensor_specs(config));
  EXPECT_EQ(specs.size(), 3u + 2 * (6 + 1 + 3 * 3) + 3);
  EXPECT_EQ(specs.at("model.layers.0.mlp.router.weight"), (std::vector<int64_t>{3, 32}));
  EXPECT_EQ(specs.at("model.layers.0.mlp.experts.2.gate_proj.weight"), (std::vector<int64_t>{12, 32}));
  EXPECT_EQ(specs.at("model.layers.1.mlp.experts.0.down_proj.weight"), (std::vector<int64_t>{32, 20}));
  EXPECT_EQ(specs.at("model.layers.1.mlp.shared_expert.up_proj.weight"), (std::vector<int64_t>{5, 32}));
  EXPECT_EQ(specs.count("model.layers.0.mlp.shared_expert.up_proj.weight"), 0u);
  EXPECT_EQ(specs.count("model.layers.0.mlp.gate_proj.weight"), 0u);
}

/// Where there is a shared expert; a token uses it, and its rank owns all of it.
TEST(LogicalTensorSpecsTest, TheGateOfSharedExperts) {
  ModelConfig config = tiny_moe_config(3, 2, 12);
  config.moe->shared_widths = {0, 6};
  const ParameterCount without = count_parameters(config);
  const ModelConfig gated = testing::with_shared_gate(config, "softmax", 2, 2);
  const auto specs = as_map(logical_tensor_specs(gated));
  EXPECT_EQ(specs.at("model.layers.1.mlp.shared_expert_gate.weight"), (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(specs.count("model.layers.0.mlp.shared_expert_gate.weight"), 0u);
  EXPECT_EQ(specs.size(), as_map(logical_tensor_specs(config)).size() + 1);
  EXPECT_EQ(count_parameters(gated).total, without.total + 2 * 32);
  EXPECT_EQ(count_parameters(gated).active, without.active + 2 * 32);
}

TEST(LogicalTensorSpecsTest, NamesOfQwen2) {
  const auto specs = as_map(logical_tensor_specs(tiny_config("qwen2")));
  EXPECT_EQ(specs.size(), 3u + 2 * (9 + 3));
  EXPECT_EQ(specs.at("model.layers.1.self_attn.q_proj.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(specs.at("model.layers.1.self_attn.v_proj.bias"), (std::vector<int64_t>{16}));
  EXPECT_EQ(specs.count("model.layers.1.self_attn.o_proj.bias"), 0u);
  EXPECT_EQ(specs.count("model.layers.1.mlp.up_proj.bias"), 0u);
}

TEST(LogicalTensorSpecsTest, NamesOfPhi) {
  const auto dense = as_map(logical_tensor_specs(tiny_config("phi")));
  EXPECT_EQ(dense.size(), 1u + 2 + 2 + 2 * (2 + 4 * 2 + 2 * 2));
  EXPECT_EQ(dense.at("model.layers.0.self_attn.dense.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(dense.at("model.layers.0.input_layernorm.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(dense.at("model.layers.1.mlp.fc1.weight"), (std::vector<int64_t>{48, 32}));
  EXPECT_EQ(dense.at("model.layers.1.mlp.fc2.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(dense.at("model.final_layernorm.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(dense.at("lm_head.bias"), (std::vector<int64_t>{61}));
  EXPECT_EQ(dense.count("model.layers.0.post_attention_layernorm.weight"), 0u);

  const auto moe = as_map(logical_tensor_specs(tiny_moe_config(3, 2, 12, 6, "phi")));
  EXPECT_EQ(moe.size(), 1u + 2 + 2 + 2 * (2 + 4 * 2 + 1 + 3 * 3 + 3 + 1));
  EXPECT_EQ(moe.at("model.layers.0.mlp.experts.2.up_proj.weight"), (std::vector<int64_t>{12, 32}));
  EXPECT_EQ(moe.at("model.layers.0.mlp.experts.2.up_proj.bias"), (std::vector<int64_t>{12}));
  EXPECT_EQ(moe.at("model.layers.0.mlp.experts.2.down_proj.weight"), (std::vector<int64_t>{32, 12}));
  EXPECT_EQ(moe.at("model.layers.0.mlp.shared_expert.up_proj.bias"), (std::vector<int64_t>{6}));
  EXPECT_EQ(moe.at("model.layers.1.mlp.output_bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(moe.count("model.layers.0.mlp.experts.2.gate_proj.weight"), 0u);
  EXPECT_EQ(moe.count("model.layers.0.mlp.experts.2.down_proj.bias"), 0u);
}

/// A bias of the mixtures' own, in a family whose FFNs have none; where those have, there is one, not two.
TEST(LogicalTensorSpecsTest, AMixtureMayHaveAnOutputBias) {
  ModelConfig config = testing::with_dense_layer(tiny_moe_config(4, 2, 12, 8), 0);
  const size_t without = logical_tensor_specs(config).size();
  config.moe->has_output_bias = true;
  const auto moe = as_map(logical_tensor_specs(config));
  EXPECT_EQ(moe.size(), without + 1);
  EXPECT_EQ(moe.at("model.layers.1.mlp.output_bias"), (std::vector<int64_t>{32}));
  ModelConfig phi = tiny_moe_config(3, 2, 12, 6, "phi");
  const size_t of_phi = logical_tensor_specs(phi).size();
  phi.moe->has_output_bias = true;
  EXPECT_EQ(logical_tensor_specs(phi).size(), of_phi);
}

// What has no id, as a tensor that only a stock architecture stores, cannot pass for one that has: none is there
// unsaid.
static_assert(!std::is_default_constructible_v<TensorId> && !std::is_default_constructible_v<TensorSpec> &&
              !std::is_default_constructible_v<Parameter>);

// Where families differ, and where they do not: a name is made from its id in one place.
TEST(TensorNameTest, FollowsTheIdAndTheFamily) {
  const ModelConfig llama = tiny_moe_config(3, 2, 12), phi = tiny_moe_config(3, 2, 12, 6, "phi");
  const TensorId out{TensorPart::kAttentionOut, 1}, up{TensorPart::kUp, 0, 2};
  EXPECT_EQ(tensor_name(llama, out), "model.layers.1.self_attn.o_proj.weight");
  EXPECT_EQ(tensor_name(phi, out.bias()), "model.layers.1.self_attn.dense.bias");
  EXPECT_EQ(tensor_name(phi, {TensorPart::kUp, 1}), "model.layers.1.mlp.fc1.weight");
  EXPECT_EQ(tensor_name(phi, TensorId{TensorPart::kFinalNorm}.bias()), "model.final_layernorm.bias");
  EXPECT_EQ(tensor_name(llama, up), "model.layers.0.mlp.experts.2.up_proj.weight");
  EXPECT_EQ(tensor_name(phi, up.bias()), "model.layers.0.mlp.experts.2.up_proj.bias");
  EXPECT_EQ(tensor_name(phi, {TensorPart::kDown, 1, kSharedExpert}),
            "model.layers.1.mlp.shared_expert.down_proj.weight");
  EXPECT_EQ(tensor_name(llama, {TensorPart::kGateUp, 0, kStack}), "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(tensor_name(phi, TensorId{TensorPart::kUp, 0, kStack}.bias()), "model.layers.0.mlp.experts.up_proj_bias");
  EXPECT_EQ(tensor_name(phi, {TensorPart::kOutputBias, 1, kNoExpert, true}), "model.layers.1.mlp.output_bias");
  EXPECT_EQ(tensor_name(llama, {TensorPart::kSelectionBias, 0}), "model.layers.0.mlp.router.selection_bias");
  EXPECT_EQ(tensor_name(phi, {TensorPart::kRouterGain, 1}), "model.layers.1.mlp.router.gain");
  EXPECT_EQ(tensor_name(llama, {TensorPart::kQuery, 0, 1}), "model.layers.0.self_attn.experts.1.q_proj.weight");
  EXPECT_EQ(tensor_name(phi, {TensorPart::kAttentionOut, 1, 2}), "model.layers.1.self_attn.experts.2.o_proj.weight");
  EXPECT_EQ(tensor_name(phi, TensorId{TensorPart::kQueryKeyValue, 0, kStack}.bias()),
            "model.layers.0.self_attn.experts.qkv_proj_bias");
  EXPECT_EQ(tensor_name(llama, TensorId(TensorPart::kRouter, 1).of_attention()),
            "model.layers.1.self_attn.router.weight");
  EXPECT_EQ(tensor_name(llama, TensorId(TensorPart::kSelectionBias, 1).of_attention()),
            "model.layers.1.self_attn.router.selection_bias");
  EXPECT_THROW(tensor_name(llama, {TensorPart::kRouter, 0, 1}), Internal) << "an expert has no router";
}

// Whatever the ranks own, together their parameters hold every logical tensor once, with its shape.
class LogicalViewsOfTest : public ::testing::TestWithParam<const char*> {
 protected:
  static ModelConfig config() {
    return testing::with_attention_experts(tiny_moe_config(4, 2, 12, 8, GetParam()), 4, 2);
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, LogicalViewsOfTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

// Two tensors never share an id, and everything that is asked of an id agrees with the name that is written.
TEST_P(LogicalViewsOfTest, IdsTellTheTensorsApart) {
  for (const ModelConfig& config : {LogicalViewsOfTest::config(), tiny_config(GetParam())}) {
    std::set<TensorId> seen;
    for (const TensorSpec& spec : logical_tensor_specs(config)) {
      EXPECT_TRUE(seen.insert(spec.id).second) << spec.name;
      EXPECT_EQ(spec.id.layer >= 0, spec.name.starts_with("model.layers.")) << spec.name;
      EXPECT_EQ(spec.id.is_routed(), spec.name.find(".experts.") != std::string::npos) << spec.name;
      EXPECT_EQ(spec.id.is_bias, spec.name.ends_with("bias")) << spec.name;
    }
  }
}

TEST_P(LogicalViewsOfTest, RanksTogetherHoldEveryTensorOnce) {
  const ModelConfig config = LogicalViewsOfTest::config();
  std::map<std::string, std::vector<int64_t>> experts, others;
  for (const ExpertRange range : {ExpertRange{0, 1}, ExpertRange{1, 3}}) {
    const Decoder decoder(config, at::kFloat, {range, range});
    for (const Parameter& parameter : decoder.parameters()) {
      for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
        auto& where = parameter.is_expert ? experts : others;
        const bool is_new = where.emplace(logical.name, logical.view.sizes().vec()).second;
        EXPECT_EQ(is_new, parameter.is_expert || range.first == 0) << logical.name;
      }
    }
  }
  experts.merge(others);
  EXPECT_EQ(experts, as_map(logical_tensor_specs(config)));
}

TEST(LogicalViewsTest, ViewsWriteThroughToTheStackedTensors) {
  Decoder decoder(tiny_moe_config(4, 2, 12), at::kFloat, {1, 2});
  for (Parameter& parameter : decoder.parameters()) {
    if (!parameter.is_expert) continue;
    const bool is_down = parameter.name.find("down_proj") != std::string::npos;
    parameter.value.zero_();
    double mark = 0;
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) logical.view.fill_(++mark);
    EXPECT_EQ(mark, is_down ? 2 : 4);
    if (is_down) {
      EXPECT_EQ(parameter.value.sizes(), (std::vector<int64_t>{2, 32, 12}));
      EXPECT_TRUE(parameter.value[1].eq(2).all().item<bool>());
    } else {
      EXPECT_EQ(parameter.value.sizes(), (std::vector<int64_t>{2, 24, 32}));
      EXPECT_TRUE(parameter.value[0].narrow(0, 0, 12).eq(1).all().item<bool>());   // gate of expert 1
      EXPECT_TRUE(parameter.value[1].narrow(0, 12, 12).eq(4).all().item<bool>());  // up of expert 2
    }
  }
}

// Every bias of an expert is a row range of one stacked tensor, beside the matrices.
TEST_P(LogicalViewsOfTest, ViewsOfExpertsCoverTheStacksExactly) {
  Decoder decoder(config(), at::kFloat, {{1, 2}, {1, 2}});
  for (Parameter& parameter : decoder.parameters()) {
    if (!parameter.is_expert) continue;
    parameter.value.zero_();
    int64_t elements = 0;
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
      logical.view.add_(1);
      elements += logical.view.numel();
    }
    EXPECT_EQ(elements, parameter.value.numel()) << parameter.name;
    EXPECT_TRUE(parameter.value.eq(1).all().item<bool>()) << parameter.name << ": views overlap";
  }
}

TEST_P(LogicalViewsOfTest, OnlyMatricesDecayAndOnlyExpertsAreOwned) {
  const Decoder decoder(config(), at::kFloat, {0, 4});
  for (const Parameter& parameter : decoder.parameters()) {
    const bool is_bias = parameter.name.ends_with("bias");
    EXPECT_EQ(parameter.decays, parameter.name.find("norm") == std::string::npos && !is_bias) << parameter.name;
    EXPECT_EQ(parameter.is_expert, parameter.name.find(".experts.") != std::string::npos) << parameter.name;
    EXPECT_EQ(parameter.id.layer, parameter.name.rfind("model.layers.", 0) == 0 ? parameter.name[13] - '0' : -1)
        << parameter.name;
  }
}

}  // namespace
}  // namespace moe
