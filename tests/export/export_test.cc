// What is written: round trips, names, configs, shards, roundings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/file_io.h"
#include "export/export_fixture.h"
#include "export/export_report.h"
#include "testing/compare.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::export_spec;
using testing::export_to;
using testing::ExportTest;
using ::testing::HasSubstr;
using testing::logits_of_directory;
using testing::MixtureSpec;
using testing::write_mixture;

nlohmann::json json_of(const std::filesystem::path& path) {
  return nlohmann::json::parse(read_file(path));
}

struct Case {
  std::string name;
  MixtureSpec spec;
  std::string format;          ///< that it is written as
  std::string asked = "auto";  ///< for
};

const nlohmann::json kLlama3 = {{"rope_scaling",
                                 {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 16}}}};

/// The rows of docs/export.md.
std::vector<Case> cases() {
  return {
      {"RowA", {}, "mixtral"},
      {"RowAScaled", {.scales = {4, 0.5}}, "mixtral"},
      {"RowALlama3Rope", {.keys = kLlama3}, "mixtral"},
      {"RowATied", {.keys = {{"tie_word_embeddings", true}}}, "mixtral"},
      {"RowAWideHeads", {.keys = {{"head_dim", 12}}}, "mixtral"},
      {"RowA2", {.family = "qwen2", .scales = {2, 2}}, "qwen2_moe"},
      {"RowA2Tied", {.family = "qwen2", .keys = {{"tie_word_embeddings", true}}}, "qwen2_moe"},
      {"RowB", {.shared = {8, 8}, .scales = {2, 1}}, "granitemoeshared"},
      {"RowBBiases", {.shared = {8, 8}, .keys = {{"attention_bias", true}}}, "granitemoeshared"},
      {"RowB2", {.family = "qwen2", .shared = {8, 8}}, "qwen2_moe"},
      {"RowCLlama", {.topk_norm = "raw"}, "qwen2_moe"},
      {"RowCQwenShared", {.family = "qwen2", .topk_norm = "raw", .shared = {8, 8}}, "qwen2_moe"},
      {"RowDLlama", {.top_k = 1, .topk_norm = "straight_through"}, "mixtral"},
      {"RowDUnit", {.top_k = 1, .topk_norm = "unit"}, "mixtral"},
      {"RowDQwen", {.family = "qwen2", .top_k = 1, .topk_norm = "straight_through"}, "qwen2_moe"},
      {"RowFLlamaFirst", {.widths = {0, 12}, .scales = {1, 2}}, "qwen2_moe"},
      {"RowFQwenLast", {.family = "qwen2", .widths = {12, 0}}, "qwen2_moe"},
      {"RowFShared", {.widths = {0, 12}, .shared = {0, 8}}, "qwen2_moe"},
      {"RowFRaw", {.topk_norm = "raw", .widths = {12, 0}, .shared = {8, 0}}, "qwen2_moe"},
      {"RowGLlama", {.shared = {8, 8}, .shared_gate = "sigmoid", .gate_scale = 2}, "qwen2_moe"},
      {"RowGQwenRaw",
       {.family = "qwen2", .topk_norm = "raw", .shared = {8, 8}, .shared_gate = "sigmoid", .gate_scale = 0.5},
       "qwen2_moe"},
      {"RowGDenseLayer", {.widths = {12, 0}, .shared = {8, 0}, .shared_gate = "sigmoid", .gate_scale = 4}, "qwen2_moe"},
      {"RowE", {.score = "sigmoid"}, "glm4_moe"},
      {"RowERaw", {.topk_norm = "raw", .score = "sigmoid", .scales = {3.3, 3.3}}, "glm4_moe"},
      {"RowEBias", {.score = "sigmoid", .selection_bias = true, .scales = {4, 0.5}}, "glm4_moe"},
      {"RowEShared", {.score = "sigmoid", .selection_bias = true, .shared = {24, 24}}, "glm4_moe"},
      {"RowEWideHeads", {.score = "sigmoid", .keys = {{"head_dim", 12}}}, "glm4_moe"},
      {"RowEQwen", {.family = "qwen2", .score = "sigmoid", .selection_bias = true}, "glm4_moe"},
      {"RowEFirstDense", {.score = "sigmoid", .widths = {0, 12}, .shared = {0, 12}, .scales = {1, 2}}, "glm4_moe"},
      {"RowETop1",
       {.top_k = 1, .topk_norm = "straight_through", .score = "sigmoid", .selection_bias = true},
       "glm4_moe"},
      {"RowESolar",
       {.topk_norm = "raw", .score = "sigmoid", .selection_bias = true, .shared = {12, 12}, .scales = {2, 2}},
       "solar_open",
       "solar_open"},
      {"RowESolarQwen", {.family = "qwen2", .score = "sigmoid"}, "solar_open", "solar_open"},
      // Without biases the largest sigmoid is that of the largest logit.
      {"RowDSigmoid", {.top_k = 1, .topk_norm = "unit", .score = "sigmoid"}, "mixtral"},
      {"RowBQwenAsGranite", {.family = "qwen2", .shared = {8, 8}}, "granitemoeshared", "granitemoeshared"}};
}

class RoundTripTest : public ExportTest, public ::testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Rows, RoundTripTest, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// Scales are powers of two and no width changes: every product is the same product.
TEST_P(RoundTripTest, TheExportHasTheSameLogitsBitForBit) {
  write_mixture(native(), GetParam().spec);
  const nlohmann::json report = export_to(native(), out(), export_spec(GetParam().asked));
  EXPECT_EQ(report["format"], GetParam().format);
  EXPECT_EQ(report["max_relative_rounding"], 0);
  const ModelDirectory imported(out());
  EXPECT_EQ(imported.config().stock_layout, GetParam().format);
  EXPECT_EQ(imported.config().moe->shared_widths, GetParam().spec.shared);
  const at::Tensor before = logits_of_directory(native()), after = logits_of_directory(out());
  EXPECT_EQ(testing::rows_that_differ(before, after), 0) << testing::max_difference(before, after);
  // And back into our own form.
  export_to(out(), folder_ / "again", export_spec("native"));
  EXPECT_EQ(testing::rows_that_differ(before, logits_of_directory(folder_ / "again")), 0);
}

/// Our rows, and the scale in the down projection; where a layer has no shared expert, the dummy and its gate.
TEST_F(ExportTest, TheGateOfQwen2MoeIsOurs) {
  write_mixture(native(), {.shared = {0, 8}, .shared_gate = "sigmoid", .gate_scale = 4});
  const nlohmann::json report = export_to(native(), out());
  EXPECT_EQ(report["format"], "qwen2_moe");
  EXPECT_THAT(report["notes"].dump(), HasSubstr("its scale 4 stands in the down projection, which is exact"));
  const SafetensorsFile stored(out() / "model.safetensors"), ours(native() / "model.safetensors");
  const std::string gate = "mlp.shared_expert_gate.weight", down = "model.layers.1.mlp.shared_expert.down_proj.weight";
  EXPECT_TRUE(stored.tensor("model.layers.1." + gate).equal(ours.tensor("model.layers.1." + gate)));
  EXPECT_TRUE(stored.tensor("model.layers.0." + gate).eq(1e-20f).all().item<bool>());
  EXPECT_TRUE(stored.tensor(down).equal(ours.tensor(down) * 4));
  EXPECT_TRUE(testing::near(logits_of_directory(out()), logits_of_directory(native()), 1e-6));
  const ModelDirectory imported(out());
  EXPECT_EQ(imported.config().moe->shared_gate, "sigmoid");
  EXPECT_EQ(imported.config().moe->shared_gate_scale, 1);
}

/// Of zeros, as a conversion leaves it: half of everything, whatever the token, so that it is read as none.
TEST_F(ExportTest, AGateThatWasNotTrainedIsReadAsNone) {
  write_mixture(native(), {.shared = {8, 8}, .shared_gate = "sigmoid", .gate_scale = 2});
  const std::string gate = "shared_expert_gate";
  {
    const SafetensorsFile file(native() / "model.safetensors");
    std::vector<SafetensorsWriter::Spec> specs;
    for (const SafetensorsEntry& entry : file.header().entries) specs.push_back({entry.name, at::kFloat, entry.shape});
    SafetensorsWriter writer(native() / "changed", specs);
    for (const auto& spec : specs) {
      const at::Tensor tensor = file.tensor(spec.name);
      writer.write(spec.name, spec.name.find(gate) == std::string::npos ? tensor : at::zeros_like(tensor));
    }
    writer.finish();
  }
  std::filesystem::rename(native() / "changed", native() / "model.safetensors");
  export_to(native(), out());
  const ModelDirectory imported(out());
  EXPECT_EQ(imported.config().moe->shared_gate, "none");
  EXPECT_EQ(testing::rows_that_differ(logits_of_directory(out()), logits_of_directory(native())), 0);
}

TEST_F(ExportTest, WidthsThatDifferAreFilledWithZeros) {
  write_mixture(native(), {.experts = 3, .widths = {12, 20}, .shared = {0, 8}});
  auto spec = export_spec();
  const nlohmann::json report = export_to(native(), out(), spec);
  EXPECT_EQ(report["format"], "granitemoeshared");
  EXPECT_EQ(report["expert_values"], 3 * 3 * 32 * (12 + 20));
  EXPECT_EQ(report["stored_expert_values"], 3 * 3 * 32 * 40);
  EXPECT_EQ(report["padded_size_ratio"], 1.25);
  EXPECT_TRUE(testing::near(logits_of_directory(out()), logits_of_directory(native()), 1e-6));
  const SafetensorsFile file(out() / "model.safetensors");
  const at::Tensor input = file.tensor("model.layers.0.block_sparse_moe.input_linear.weight");
  EXPECT_EQ(input.sizes(), (std::vector<int64_t>{3, 40, 32}));
  EXPECT_EQ(input.slice(1, 12, 20).count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(input.slice(1, 32, 40).count_nonzero().item<int64_t>(), 0);
  EXPECT_GT(input.slice(1, 20, 32).count_nonzero().item<int64_t>(), 0);
}

TEST_F(ExportTest, PadExpertsTo) {
  write_mixture(native(), {});
  auto spec = export_spec();
  spec.set_pad_experts_to(16);
  EXPECT_EQ(export_to(native(), out(), spec)["padded_size_ratio"], 16.0 / 12);
  EXPECT_EQ(json_of(out() / "config.json")["intermediate_size"], 16);
  EXPECT_TRUE(testing::near(logits_of_directory(out()), logits_of_directory(native()), 1e-6));
}

std::vector<std::string> names_in(const std::filesystem::path& file) {
  std::vector<std::string> names;
  const SafetensorsFile opened(file);
  for (const SafetensorsEntry& entry : opened.header().entries) {
    if (entry.name.find("layers.1.") == std::string::npos) names.push_back(entry.name);
  }
  return names;
}

TEST_F(ExportTest, NamesOfMixtral) {
  write_mixture(native(), {.experts = 2});
  export_to(native(), out());
  const std::string layer = "model.layers.0.", moe = layer + "block_sparse_moe.";
  EXPECT_THAT(
      names_in(out() / "model.safetensors"),
      ElementsAre("model.embed_tokens.weight", layer + "input_layernorm.weight", layer + "self_attn.q_proj.weight",
                  layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight",
                  layer + "self_attn.o_proj.weight", layer + "post_attention_layernorm.weight", moe + "gate.weight",
                  moe + "experts.0.w1.weight", moe + "experts.0.w2.weight", moe + "experts.0.w3.weight",
                  moe + "experts.1.w1.weight", moe + "experts.1.w2.weight", moe + "experts.1.w3.weight",
                  "model.norm.weight", "lm_head.weight"));
  const SafetensorsFile stored(out() / "model.safetensors"), ours(native() / "model.safetensors");
  const auto same = [&](const std::string& theirs, const std::string& mine) {
    return stored.tensor(moe + theirs).equal(ours.tensor(layer + "mlp." + mine));
  };
  EXPECT_TRUE(same("gate.weight", "router.weight"));
  EXPECT_TRUE(same("experts.1.w1.weight", "experts.1.gate_proj.weight"));
  EXPECT_TRUE(same("experts.1.w2.weight", "experts.1.down_proj.weight"));
  EXPECT_TRUE(same("experts.1.w3.weight", "experts.1.up_proj.weight"));
}

TEST_F(ExportTest, Qwen2MoeHasBiasesAGateAndADummy) {
  write_mixture(native(), {.topk_norm = "raw"});
  const nlohmann::json report = export_to(native(), out());
  const SafetensorsFile file(out() / "model.safetensors");
  const std::string layer = "model.layers.1.";
  EXPECT_EQ(file.tensor(layer + "self_attn.k_proj.bias").count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(file.tensor(layer + "mlp.shared_expert.down_proj.weight").sizes(), (std::vector<int64_t>{32, 256}));
  EXPECT_EQ(file.tensor(layer + "mlp.shared_expert.gate_proj.weight").count_nonzero().item<int64_t>(), 0);
  const at::Tensor gate = file.tensor(layer + "mlp.shared_expert_gate.weight");
  EXPECT_EQ(gate.sizes(), (std::vector<int64_t>{1, 32}));
  EXPECT_TRUE(gate.eq(1e-20f).all().item<bool>());
  auto in_bfloat16 = export_spec();
  in_bfloat16.set_dtype("bfloat16");
  export_to(native(), folder_ / "bf16", in_bfloat16);
  EXPECT_EQ(SafetensorsFile(folder_ / "bf16" / "model.safetensors")
                .tensor(layer + "mlp.shared_expert_gate.weight")
                .eq(0)
                .sum()
                .item<int64_t>(),
            0);
  EXPECT_EQ(report["warnings"].size(), 0u);
}

TEST_F(ExportTest, TheSharedExpertOfQwen2MoeIsDoubled) {
  write_mixture(native(), {.family = "qwen2", .shared = {8, 8}});
  const nlohmann::json report = export_to(native(), out());
  const std::string down = "model.layers.0.mlp.shared_expert.down_proj.weight";
  EXPECT_TRUE(SafetensorsFile(out() / "model.safetensors")
                  .tensor(down)
                  .equal(SafetensorsFile(native() / "model.safetensors").tensor(down) * 2));
  EXPECT_THAT(report["warnings"].dump(), HasSubstr("not exact in llama.cpp: its qwen2moe never renormalises"));
}

TEST_F(ExportTest, DenseLayersStandInMlpOnlyLayers) {
  write_mixture(native(), {.experts = 2, .widths = {0, 12}, .scales = {1, 3}});
  const nlohmann::json report = export_to(native(), out()), config = json_of(out() / "config.json");
  EXPECT_EQ(config["mlp_only_layers"].dump(), "[0]");
  EXPECT_EQ(config["decoder_sparse_step"], 1);
  EXPECT_EQ(config["intermediate_size"], 48);
  EXPECT_EQ(config["moe_intermediate_size"], 12);
  EXPECT_EQ(report["expert_values"], 2 * 3 * 32 * 12);
  EXPECT_EQ(report["padded_size_ratio"], 1);
  EXPECT_THAT(report["notes"].dump(),
              AllOf(HasSubstr("1 dense layers stand in mlp_only_layers"), HasSubstr("1 of 1 are")));
  const SafetensorsFile stored(out() / "model.safetensors"), ours(native() / "model.safetensors");
  for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
    const std::string name = concat("model.layers.0.mlp.", part, ".weight");
    EXPECT_TRUE(stored.tensor(name).equal(ours.tensor(name))) << name;
  }
  for (const SafetensorsEntry& entry : stored.header().entries) {
    EXPECT_FALSE(entry.name.starts_with("model.layers.0.mlp.") && entry.name.find("expert") != std::string::npos)
        << entry.name;
  }
}

/// The same layers said by decoder_sparse_step, as other programs may.
TEST_F(ExportTest, EverySecondLayerIsAMixtureBySparseStep) {
  write_mixture(native(), {.widths = {0, 12}});
  export_to(native(), out());
  nlohmann::json config = json_of(out() / "config.json");
  config["mlp_only_layers"] = nullptr;
  config["decoder_sparse_step"] = 2;
  write_file_atomically(out() / "config.json", config.dump());
  EXPECT_EQ(ModelDirectory(out()).config().moe->expert_widths, (std::vector<int64_t>{0, 12}));
  EXPECT_EQ(testing::rows_that_differ(logits_of_directory(native()), logits_of_directory(out())), 0);
}

// Floats with a dot, bools as bools, nothing null that must not be: what strict readers of config.json ask for.
TEST_F(ExportTest, ConfigsAreComplete) {
  write_mixture(native(), {.keys = kLlama3});
  export_to(native(), out());
  const std::string text = read_file(out() / "config.json");
  for (const char* part : {R"("architectures": [
    "MixtralForCausalLM"
  ])",
                           R"("rope_theta": 10000.0)",
                           R"("rms_norm_eps": 1e-05)",
                           R"("num_local_experts": 4)",
                           R"("num_experts_per_tok": 2)",
                           R"("intermediate_size": 12)",
                           R"("head_dim": 8)",
                           R"("sliding_window": null)",
                           R"("router_jitter_noise": 0.0)",
                           R"("router_aux_loss_coef": 0.0)",
                           R"("output_router_logits": false)",
                           R"("tie_word_embeddings": false)",
                           R"("hidden_act": "silu")",
                           R"("use_cache": true)",
                           R"("initializer_range": 0.02)",
                           R"("attention_dropout": 0.0)",
                           R"("torch_dtype": "float32")",
                           R"("bos_token_id": 1)",
                           R"("eos_token_id": 2)",
                           R"("pad_token_id": null)",
                           R"("rope_type": "llama3")",
                           R"("factor": 8.0)",
                           R"("original_max_position_embeddings": 16)"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_FALSE(json_of(out() / "config.json").contains("rope_parameters"));
}

TEST_F(ExportTest, GraniteGetsTheScaleOfItsAttention) {
  write_mixture(native(), {.shared = {8, 8}, .keys = {{"num_attention_heads", 16}, {"num_key_value_heads", 2}}});
  export_to(native(), out());
  const nlohmann::json config = json_of(out() / "config.json");
  EXPECT_DOUBLE_EQ(config["attention_multiplier"].get<double>(), 1 / std::sqrt(2.0));
  EXPECT_THAT(read_file(out() / "config.json"), HasSubstr("\"attention_multiplier\": 0.707106781186547"));
  for (const char* key : {"embedding_multiplier", "logits_scaling", "residual_multiplier"})
    EXPECT_EQ(config[key].dump(), "1.0") << key;
  EXPECT_EQ(config["shared_intermediate_size"], 8);
}

TEST_F(ExportTest, ATiedHeadIsWrittenOutUnlessAskedOtherwise) {
  write_mixture(native(), {.keys = {{"tie_word_embeddings", true}}});
  export_to(native(), out());
  const SafetensorsFile file(out() / "model.safetensors");
  EXPECT_TRUE(file.tensor("lm_head.weight").equal(file.tensor("model.embed_tokens.weight")));
  EXPECT_EQ(json_of(out() / "config.json")["tie_word_embeddings"], false);
  auto spec = export_spec();
  spec.set_keep_tied(true);
  export_to(native(), folder_ / "tied", spec);
  EXPECT_EQ(SafetensorsFile(folder_ / "tied" / "model.safetensors").find("lm_head.weight"), nullptr);
  EXPECT_EQ(json_of(folder_ / "tied" / "config.json")["tie_word_embeddings"], true);
  EXPECT_EQ(testing::rows_that_differ(logits_of_directory(folder_ / "tied"), logits_of_directory(native())), 0);
}

// A scale that is no power of two: one rounding, measured against the product in float64.
TEST_F(ExportTest, OtherScalesRoundOnce) {
  write_mixture(native(), {.scales = {3.3, 1}}, at::kBFloat16);
  for (const auto& [dtype, least, most] :
       {std::tuple{"float32", 0.0, 0x1p-24}, {"bfloat16", 0x1p-11, 0x1p-8}, {"source", 0x1p-11, 0x1p-8}}) {
    auto spec = export_spec();
    spec.set_dtype(dtype);
    const std::filesystem::path path = folder_ / dtype;
    const nlohmann::json report = export_to(native(), path, spec);
    const double rounding = report["max_relative_rounding"];
    EXPECT_GT(rounding, least) << dtype;
    EXPECT_LE(rounding, most) << dtype;
    EXPECT_THAT(report["notes"].dump(), HasSubstr("1 of 2 are not powers of two"));
    const std::string down = "model.layers.0.block_sparse_moe.experts.0.w2.weight";
    const at::Tensor exact = SafetensorsFile(native() / "model.safetensors")
                                 .tensor("model.layers.0.mlp.experts.0.down_proj.weight")
                                 .to(at::kDouble) *
                             3.3;
    const at::Tensor stored = SafetensorsFile(path / "model.safetensors").tensor(down);
    EXPECT_TRUE(stored.equal(exact.to(stored.scalar_type()))) << dtype;
  }
  EXPECT_TRUE(testing::near(logits_of_directory(folder_ / "float32"), logits_of_directory(native()), 1e-5));
}

TEST_F(ExportTest, RoundingToBfloat16IsSaid) {
  write_mixture(native(), {});
  auto spec = export_spec();
  spec.set_dtype("bfloat16");
  const nlohmann::json report = export_to(native(), out(), spec);
  EXPECT_GT(report["max_relative_rounding"].get<double>(), 0x1p-9);
  EXPECT_LE(report["max_relative_rounding"].get<double>(), 0x1p-8);
  EXPECT_THAT(export_text(report), HasSubstr("weights are F32 and written as BF16"));
  EXPECT_EQ(json_of(out() / "config.json")["torch_dtype"], "bfloat16");
  EXPECT_EQ(ModelDirectory(out()).stored_dtype(), "BF16");
}

TEST_F(ExportTest, ShardsHoldWholeTensorsUnderTheLimit) {
  write_mixture(native(), {});
  auto spec = export_spec();
  spec.set_max_shard_bytes(10'000);
  const nlohmann::json report = export_to(native(), out(), spec);
  const nlohmann::json index = json_of(out() / "model.safetensors.index.json");
  uint64_t total = 0;
  size_t shards = 0, tensors = 0;
  for (const auto& entry : std::filesystem::directory_iterator(out())) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile shard(entry.path());
    uint64_t bytes = 0;
    for (const SafetensorsEntry& tensor : shard.header().entries) {
      bytes += tensor.end - tensor.begin;
      EXPECT_EQ(index["weight_map"][tensor.name], entry.path().filename().string());
      ++tensors;
    }
    EXPECT_TRUE(bytes <= 10'000 || shard.header().entries.size() == 1) << entry.path();
    EXPECT_EQ(shard.header().metadata.at("format"), "pt");
    total += bytes;
    ++shards;
  }
  EXPECT_GT(shards, 5u);
  EXPECT_EQ(report["shards"], shards);
  EXPECT_EQ(report["bytes"], total);
  EXPECT_EQ(index["metadata"]["total_size"], total);
  EXPECT_EQ(index["weight_map"].size(), tensors);
  EXPECT_EQ(testing::rows_that_differ(logits_of_directory(out()), logits_of_directory(native())), 0);
}

TEST_F(ExportTest, WhatBelongsToTheTokenizerIsCopiedByteForByte) {
  write_mixture(native(), {});
  const std::vector<std::string> copied{"tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt"};
  for (const std::string& name : copied) write_file_atomically(native() / name, name + "\n\0\xff of ours");
  write_file_atomically(native() / "notes.txt", "stays");
  write_file_atomically(native() / "conversion.json", "{}");
  export_to(native(), out());
  for (const std::string& name : copied) EXPECT_EQ(read_file(out() / name), read_file(native() / name)) << name;
  EXPECT_FALSE(std::filesystem::exists(out() / "notes.txt"));
  EXPECT_FALSE(std::filesystem::exists(out() / "conversion.json"));
  const nlohmann::json manifest = json_of(out() / "MANIFEST.json");
  for (const char* name : {"config.json", "model.safetensors", "export.json", "tokenizer.json"}) {
    EXPECT_EQ(manifest["files"][name]["xxh3_128"], xxh3_hex_of_file(out() / name)) << name;
  }
}

TEST_F(ExportTest, TheTextTellsClientsAndReasons) {
  write_mixture(native(), {.shared = {8, 8}, .keys = kLlama3});
  const std::string text = export_text(export_to(native(), out()));
  std::cout << text;
  EXPECT_THAT(text, HasSubstr("format        granitemoeshared (exact for the most clients)"));
  EXPECT_THAT(text, HasSubstr("mixtral: mixtral has no shared expert"));
  EXPECT_THAT(text, HasSubstr("qwen2_moe: exact too"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "vLLM                  yes    needs a version that hands RoPE scaling (here llama3) to granitemoeshared"));
}

/// A bias decides between scores that bfloat16 does not tell apart.
TEST_F(ExportTest, VectorsOfRoutersAreNotRounded) {
  write_mixture(native(), {.topk_norm = "one_plus", .selection_bias = true});
  v1::ExportSpec spec = export_spec("native");
  spec.set_dtype("bfloat16");
  export_to(native(), out(), spec);
  const ModelDirectory before(native()), after(out());
  for (const char* name : {"model.layers.0.mlp.router.selection_bias", "model.layers.1.mlp.router.selection_bias",
                           "model.layers.0.mlp.router.gain", "model.layers.1.mlp.router.gain"}) {
    const at::Tensor values = before.tensor(name);
    EXPECT_FALSE(at::equal(values.to(at::kBFloat16).to(at::kFloat), values)) << name << ": rounding would not be seen";
    EXPECT_EQ(after.tensor_type(name), at::kFloat) << name;
    EXPECT_TRUE(at::equal(after.tensor(name), values)) << name;
  }
  EXPECT_EQ(after.tensor_type("model.layers.0.mlp.router.weight"), at::kBFloat16);
}

}  // namespace
}  // namespace moe
