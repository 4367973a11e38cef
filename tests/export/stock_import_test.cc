// Stock mixtures that others wrote: what is read, and what is refused with its reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "export/export_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using testing::ExportTest;
using ::testing::HasSubstr;

class StockImportTest : public ExportTest {
 protected:
  /// A stock directory of this kind.
  void make(const testing::MixtureSpec& spec, const std::string& format) {
    testing::write_mixture(native(), spec);
    testing::export_to(native(), out(), testing::export_spec(format));
  }

  /// What opening it says after its config.json was changed.
  std::string problem_with(const nlohmann::json& keys) {
    nlohmann::json config = nlohmann::json::parse(read_file(out() / "config.json"));
    config.update(keys);
    return problem_with_config(config.dump());
  }
  std::string problem_with_config(const std::string& text) {
    const std::string before = read_file(out() / "config.json");
    write_file_atomically(out() / "config.json", text);
    std::string problem;
    try {
      const ModelDirectory opened(out());
    } catch (const InvalidArgument& error) {
      problem = error.what();
    }
    write_file_atomically(out() / "config.json", before);
    return problem;
  }

  /// Writes the weights again, one tensor changed.
  void replace(const std::string& name, const at::Tensor& value) {
    std::vector<SafetensorsWriter::Spec> specs;
    {
      const SafetensorsFile file(out() / "model.safetensors");
      for (const SafetensorsEntry& entry : file.header().entries)
        specs.push_back({entry.name, at::kFloat, entry.shape});
      SafetensorsWriter writer(out() / "changed", specs);
      for (const auto& spec : specs) writer.write(spec.name, spec.name == name ? value : file.tensor(spec.name));
      writer.finish();
    }
    std::filesystem::rename(out() / "changed", out() / "model.safetensors");
  }
};

TEST_F(StockImportTest, MixtralOfEitherSpelling) {
  make({}, "mixtral");
  EXPECT_EQ(problem_with(nlohmann::json::object()), "");
  nlohmann::json config = nlohmann::json::parse(read_file(out() / "config.json"));
  // As transformers 5 writes it.
  config.erase("rope_theta");
  config.erase("rope_scaling");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  EXPECT_EQ(problem_with_config(config.dump()), "");
  // The architecture's own defaults, not LLaMA's.
  for (const char* key : {"rope_parameters", "rms_norm_eps", "max_position_embeddings", "num_experts_per_tok"})
    config.erase(key);
  const ModelConfig defaults = parse_model_config(config.dump(), "mixtral");
  EXPECT_EQ(defaults.rope.theta, 1e6);
  EXPECT_EQ(defaults.norm_eps, 1e-5);
  EXPECT_EQ(defaults.max_positions, 131072);
  EXPECT_EQ(defaults.moe->top_k, 2);
  EXPECT_EQ(defaults.model_type, "llama");
}

TEST_F(StockImportTest, MixtralThatWeCannotHold) {
  make({}, "mixtral");
  EXPECT_THAT(problem_with({{"sliding_window", 4096}}),
              AllOf(HasSubstr("config.json: `sliding_window` is 4096"), HasSubstr("null")));
  EXPECT_THAT(problem_with({{"num_local_experts", 1}}),
              HasSubstr("`num_experts_per_tok` 2 is more than `num_local_experts` 1"));
  EXPECT_THAT(problem_with({{"num_local_experts", 1 << 20}}), HasSubstr("`num_local_experts`"));
  EXPECT_THAT(problem_with({{"num_local_experts", 5}}),
              HasSubstr("missing: model.layers.0.block_sparse_moe.experts.4.w1.weight"));
  EXPECT_THAT(problem_with({{"intermediate_size", 13}}), HasSubstr("mismatched"));
  EXPECT_THAT(problem_with({{"hidden_act", "gelu"}}), HasSubstr("hidden_act"));
  EXPECT_EQ(problem_with({{"router_jitter_noise", 0.1}}), "");  // of training alone
}

TEST_F(StockImportTest, GraniteThatWeCannotHold) {
  make({.shared = {8, 8}}, "granitemoeshared");
  for (const char* key : {"embedding_multiplier", "logits_scaling", "residual_multiplier"}) {
    EXPECT_THAT(problem_with({{key, 0.5}}), HasSubstr(std::string("`") + key + "` is 0.5")) << key;
  }
  EXPECT_THAT(problem_with({{"attention_multiplier", 0.015625}}), HasSubstr("head_dim^-0.5"));
}

TEST_F(StockImportTest, GraniteWithoutASharedExpertIsGranitemoe) {
  make({}, "granitemoeshared");
  EXPECT_EQ(nlohmann::json::parse(read_file(out() / "config.json"))["shared_intermediate_size"], 0);
  nlohmann::json config = nlohmann::json::parse(read_file(out() / "config.json"));
  config["model_type"] = "granitemoe";
  config.erase("shared_intermediate_size");
  EXPECT_EQ(problem_with_config(config.dump()), "");
}

TEST_F(StockImportTest, Qwen2MoeThatWeCannotHold) {
  make({.family = "qwen2", .shared = {8, 8}}, "qwen2_moe");
  EXPECT_THAT(problem_with({{"decoder_sparse_step", 2}}), HasSubstr("missing: model.layers.0.mlp.gate_proj.weight"));
  EXPECT_THAT(problem_with({{"mlp_only_layers", {1}}}), HasSubstr("missing: model.layers.1.mlp.gate_proj.weight"));
  for (const nlohmann::json& keys :
       {nlohmann::json{{"mlp_only_layers", {0, 1}}}, nlohmann::json{{"decoder_sparse_step", 3}},
        nlohmann::json{{"decoder_sparse_step", 2}, {"mlp_only_layers", {1}}}}) {
    EXPECT_THAT(problem_with(keys), HasSubstr("leave no layer with experts"));
  }
  EXPECT_THAT(problem_with({{"mlp_only_layers", {"0"}}}), HasSubstr("`mlp_only_layers`"));
  EXPECT_THAT(problem_with({{"qkv_bias", false}, {"use_sliding_window", true}}),
              HasSubstr("`use_sliding_window` is true"));
}

/// Where any layer's gate is not constant.
TEST_F(StockImportTest, ALearnedGateOfQwen2Moe) {
  make({.family = "qwen2", .shared = {8, 8}}, "qwen2_moe");
  EXPECT_EQ(ModelDirectory(out()).config().moe->shared_gate, "none");
  const std::string gate = "model.layers.1.mlp.shared_expert_gate.weight",
                    down = "model.layers.1.mlp.shared_expert.down_proj.weight";
  const at::Tensor before = testing::logits_of_directory(out()), learned = at::full({1, 32}, 0.01);
  replace(gate, learned);
  const ModelDirectory model(out());
  EXPECT_EQ(model.config().moe->shared_gate, "sigmoid");
  EXPECT_EQ(model.config().moe->shared_gate_rows, 1);
  EXPECT_EQ(model.config().moe->shared_gate_scale, 1);
  EXPECT_TRUE(at::equal(model.tensor(gate), learned));
  EXPECT_TRUE(at::equal(model.tensor(down), SafetensorsFile(out() / "model.safetensors").tensor(down)));
  EXPECT_FALSE(testing::near(testing::logits_of_directory(out()), before, 1e-6));
  testing::export_to(out(), folder_ / "ours", testing::export_spec("native"));
  EXPECT_TRUE(at::equal(testing::logits_of_directory(folder_ / "ours"), testing::logits_of_directory(out())));
  replace(gate, at::zeros({1, 32}));
  EXPECT_EQ(ModelDirectory(out()).config().moe->shared_gate, "none");
  EXPECT_TRUE(at::equal(testing::logits_of_directory(out()), before));
}

TEST_F(StockImportTest, Glm4MoeAndSolarOpenThatWeCannotHold) {
  make({.score = "sigmoid", .selection_bias = true}, "glm4_moe");
  EXPECT_EQ(problem_with(nlohmann::json::object()), "");
  EXPECT_THAT(problem_with({{"n_group", 2}}), HasSubstr("`n_group` is 2; expected 1: groups of experts"));
  EXPECT_THAT(problem_with({{"topk_group", 2}}), HasSubstr("`topk_group` is 2"));
  EXPECT_THAT(problem_with({{"use_qk_norm", true}}), HasSubstr("norms of queries and keys are not supported"));
  EXPECT_THAT(problem_with({{"partial_rotary_factor", 0.5}}), HasSubstr("`partial_rotary_factor` is 0.5; expected 1"));
  EXPECT_THAT(problem_with({{"partial_rotary_factor", nullptr}}), HasSubstr("a glm4_moe turns half of each head"));
  EXPECT_THAT(problem_with({{"first_k_dense_replace", 2}}),
              HasSubstr("`first_k_dense_replace` is 2; expected less than num_hidden_layers 2: no layer has experts"));
  EXPECT_THAT(problem_with({{"first_k_dense_replace", 1}}), HasSubstr("missing: model.layers.0.mlp.gate_proj.weight"));
  EXPECT_THAT(problem_with({{"n_routed_experts", 5}}), HasSubstr("missing: model.layers.0.mlp.experts.4.gate_proj"));
  EXPECT_THAT(problem_with({{"n_shared_experts", 1 << 30}, {"moe_intermediate_size", 1 << 30}}),
              HasSubstr("`n_shared_experts`"));
  // Of a solar_open a missing factor is 1, and layers before the experts are nothing that it has.
  EXPECT_EQ(problem_with({{"model_type", "solar_open"}, {"partial_rotary_factor", nullptr}}), "");
  EXPECT_EQ(problem_with({{"model_type", "solar_open"}, {"first_k_dense_replace", 1}}), "");
}

TEST_F(StockImportTest, Glm4MoeOfTransformers5AndItsDefaults) {
  make({.score = "sigmoid", .selection_bias = true, .scales = {2, 2}}, "glm4_moe");
  nlohmann::json config = nlohmann::json::parse(read_file(out() / "config.json"));
  for (const char* key : {"rope_theta", "rope_scaling", "partial_rotary_factor"}) config.erase(key);
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}, {"partial_rotary_factor", 1.0}};
  EXPECT_EQ(problem_with_config(config.dump()), "");
  EXPECT_EQ(parse_model_config(config.dump(), "glm").moe->output_scale, (std::vector<double>{2, 2}));
  for (const char* key : {"rms_norm_eps", "max_position_embeddings", "num_experts_per_tok", "routed_scaling_factor",
                          "moe_intermediate_size", "n_routed_experts", "first_k_dense_replace", "norm_topk_prob"}) {
    config.erase(key);
  }
  config["attention_bias"] = true;
  const ModelConfig defaults = parse_model_config(config.dump(), "glm");
  EXPECT_EQ(defaults.model_type, "qwen2") << "biases on q, k and v";
  EXPECT_EQ(defaults.norm_eps, 1e-5);
  EXPECT_EQ(defaults.max_positions, 131072);
  EXPECT_EQ(defaults.moe->top_k, 8);
  EXPECT_EQ(defaults.moe->num_experts, 128);
  EXPECT_EQ(defaults.moe->score, "sigmoid");
  EXPECT_EQ(defaults.moe->topk_norm, "renorm");
  EXPECT_EQ(defaults.moe->expert_widths, (std::vector<int64_t>{0, 1408}));
  EXPECT_EQ(defaults.moe->output_scale, (std::vector<double>{1, 1}));
}

/// The layouts of LLaMA-MoE, from their configs alone; tests/peer/llama_moe_peer_test.cc reads whole directories.
std::string problem_of_config(const std::string& type, const nlohmann::json& keys) {
  nlohmann::json config = testing::tiny_json();
  config.erase("architectures");
  config["model_type"] = type;
  config.update(keys);
  try {
    parse_model_config(config.dump(), "config.json");
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(LlamaMoeImportTest, WhatOfVersion1WeCannotHold) {
  const auto with = [&](const nlohmann::json& keys) { return problem_of_config("llama_moe", keys); };
  EXPECT_EQ(with(nlohmann::json::object()), "");
  EXPECT_EQ(with({{"gate_network", "linear"}}), "");
  EXPECT_EQ(with({{"gate_network", "cosine"}}),
            "config.json: `gate_network` is \"cosine\"; expected \"mlp\" or \"linear\"");
  EXPECT_THAT(with({{"gate_noise_epsilon", 0.1}}), HasSubstr("`gate_noise_epsilon` is 0.1"));
  EXPECT_THAT(with({{"gate_type", "SwitchBalancedGate"}}), HasSubstr("`gate_type` is \"SwitchBalancedGate\""));
  EXPECT_THAT(with({{"calculator_type", "SwitchDropTokenCalculator"}}), HasSubstr("drops tokens"));
  EXPECT_THAT(with({{"gate_use_softmax", false}}), HasSubstr("`gate_use_softmax` is false"));
  EXPECT_THAT(with({{"add_weight_norm", true}}), HasSubstr("`add_weight_norm` is true"));
  EXPECT_THAT(with({{"num_experts", 5}}), HasSubstr("`num_experts` 5 does not divide `intermediate_size` 48"));
  EXPECT_THAT(with({{"num_experts", 4}, {"size_experts", {{12, 12, 12, 12}, {12, 36}}}}),
              HasSubstr("one width for each of 4 experts of layer 1"));
  EXPECT_THAT(with({{"score_scale_factor", {1.0, 2.0, 3.0}}}), HasSubstr("`score_scale_factor`"));
  EXPECT_THAT(with({{"num_selects", 17}}), HasSubstr("`num_selects` 17 is more than `num_experts` 16"));
  EXPECT_THAT(problem_of_config("llama_moe_residual", nlohmann::json::object()),
              AllOf(HasSubstr("`model_type` is \"llama_moe_residual\""), HasSubstr("mlp.residual_block"),
                    HasSubstr("sharing_inter")));
}

TEST(LlamaMoeImportTest, WhatOfVersion2WeCannotHold) {
  const auto with = [&](nlohmann::json keys) {
    keys["scale_factor"] = 4.0;
    return problem_of_config("mixtral", keys);
  };
  EXPECT_EQ(with(nlohmann::json::object()), "");
  EXPECT_EQ(with({{"sliding_window", 64}}), "") << "no sequence of the model is longer";
  EXPECT_THAT(with({{"sliding_window", 63}}), HasSubstr("`sliding_window` is 63"));
  const nlohmann::json attention{{"use_attn_moe", true}, {"top_k_attn", 1}, {"scale_factor_attn", 2.0}};
  const auto with_attention = [&](nlohmann::json keys) {
    keys.update(attention);
    return with(keys);
  };
  EXPECT_EQ(with_attention({{"attn_experts", 4}}), "");
  EXPECT_THAT(with_attention({{"attn_experts", 3}}),
              HasSubstr("`attn_experts` is 3; expected a multiple of num_key_value_heads 2 that divides "
                        "num_attention_heads 4"));
  EXPECT_THAT(with({{"use_attn_moe", true}, {"scale_factor_attn", 2.0}}), HasSubstr("`top_k_attn` is missing"));
  EXPECT_THAT(with({{"use_attn_moe", true}, {"top_k_attn", 1}}), HasSubstr("`scale_factor_attn` is missing"));
  EXPECT_THAT(with({{"use_attn_moe", true}, {"top_k_attn", 3}, {"scale_factor_attn", 2.0}}),
              HasSubstr("`top_k_attn` is 3; expected at most the 2 experts of attention"));
  EXPECT_THAT(with({{"add_rescale_bias", true}}), HasSubstr("`add_rescale_bias` is true"));
  EXPECT_THAT(with({{"moe_type", "megablocks"}}), HasSubstr("`moe_type` is \"megablocks\""));
  EXPECT_THAT(with({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}}), HasSubstr("rope_theta alone"));
  EXPECT_THAT(with({{"num_moe_contract_layers", 1}}), HasSubstr("less than half of the 2 layers"));
  // Without any of its keys it is the stock architecture.
  EXPECT_THAT(problem_of_config("mixtral", {{"sliding_window", 64}}),
              HasSubstr("`sliding_window` is 64; expected null"));
}

TEST_F(StockImportTest, WeightsOfTheChosenFollowNormTopkProb) {
  make({.family = "qwen2"}, "qwen2_moe");
  EXPECT_EQ(ModelDirectory(out()).config().moe->topk_norm, "renorm");
  EXPECT_EQ(ModelDirectory(out()).config().moe->shared_widths, (std::vector<int64_t>{0, 0}));  // the dummy is gone
  nlohmann::json config = nlohmann::json::parse(read_file(out() / "config.json"));
  config.erase("norm_topk_prob");
  EXPECT_EQ(parse_model_config(config.dump(), "qwen2_moe").moe->topk_norm, "raw");
}

}  // namespace
}  // namespace moe
