// What config.json of each family means: properties of the block, RoPE in both spellings, windows; every refusal names
// its key.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/file_io.h"
#include "common/log.h"
#include "model/model_config.h"
#include "testing/message_of.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::tiny_json;
using Json = nlohmann::json;

ModelConfig parse(const Json& json) {
  return parse_model_config(json.dump(), "dir/config.json");
}

/// The tiny config of a family with these keys put in, or, where null, taken out.
Json changed(const std::string& family, const Json& changes) {
  Json json = tiny_json(family);
  for (const auto& [key, value] : changes.items()) {
    json[key] = value;
    if (value.is_null()) json.erase(key);
  }
  return json;
}

std::string refusal(const Json& json) {
  return testing::message_of([&] { parse(json); });
}

TEST(LlamaFamilyTest, BiasesFollowTheirKeys) {
  const ModelConfig none = parse(tiny_json("llama"));
  EXPECT_FALSE(none.qkv_bias || none.o_bias || none.mlp_bias || none.head_bias || none.is_parallel);
  EXPECT_TRUE(none.is_gated);
  const ModelConfig attention = parse(changed("llama", {{"attention_bias", true}}));
  EXPECT_TRUE(attention.qkv_bias && attention.o_bias && !attention.mlp_bias);
  const ModelConfig ffn = parse(changed("llama", {{"mlp_bias", true}}));
  EXPECT_TRUE(!ffn.qkv_bias && !ffn.o_bias && ffn.mlp_bias);
}

TEST(Qwen2FamilyTest, QueriesKeysAndValuesHaveBiasesWhateverTheKeySays) {
  for (const bool key : {true, false}) {
    const ModelConfig config = parse(changed("qwen2", {{"attention_bias", key}, {"mlp_bias", key}}));
    EXPECT_TRUE(config.qkv_bias && !config.o_bias && !config.mlp_bias) << key;
  }
  const ModelConfig defaults = parse(changed("qwen2", {{"rms_norm_eps", nullptr}, {"rope_theta", nullptr}}));
  EXPECT_EQ(defaults.norm_eps, 1e-6);
  EXPECT_EQ(defaults.rope.theta, 10000);
  EXPECT_EQ(defaults.rope.rotary_dims, 8);
}

TEST(Qwen2FamilyTest, WindowsThatAreNoWindows) {
  const auto window = [](const Json& changes) { return parse(changed("qwen2", changes)).attention_window; };
  EXPECT_FALSE(window({{"use_sliding_window", false}, {"sliding_window", 8}, {"max_window_layers", 1}}))
      << "switched off";
  EXPECT_FALSE(window({{"sliding_window", 8}, {"max_window_layers", 0}})) << "absent is off";
  EXPECT_FALSE(window({{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 2}}))
      << "from layer 2 on: none";
  EXPECT_FALSE(window({{"use_sliding_window", true}, {"sliding_window", 8}})) << "max_window_layers is 28";
  EXPECT_FALSE(window({{"use_sliding_window", true}, {"max_window_layers", 0}})) << "no width: none";
  EXPECT_FALSE(window({{"use_sliding_window", true}, {"sliding_window", 64}, {"max_window_layers", 0}}))
      << "as wide as the model";
  EXPECT_FALSE(window(
      {{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", {"full_attention", "full_attention"}}}));
}

TEST(Qwen2FamilyTest, AWindowOfEveryLayerIsKept) {
  EXPECT_EQ(parse(changed("qwen2", {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 0}}))
                .attention_window,
            8);
  EXPECT_EQ(parse(changed("qwen2", {{"use_sliding_window", true},
                                    {"sliding_window", 8},
                                    {"layer_types", {"sliding_attention", "sliding_attention"}}}))
                .attention_window,
            8);
}

TEST(PhiFamilyTest, IsParallelWithBiasesAndAPartOfTheHead) {
  const ModelConfig config = parse(tiny_json("phi"));
  EXPECT_TRUE(config.is_parallel && config.qkv_bias && config.o_bias && config.mlp_bias && config.head_bias);
  EXPECT_FALSE(config.is_gated);
  EXPECT_EQ(config.norm, NormKind::kLayer);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.rope.rotary_dims, 4);
  const ModelConfig defaults =
      parse(changed("phi", {{"layer_norm_eps", nullptr}, {"partial_rotary_factor", nullptr}, {"hidden_act", nullptr}}));
  EXPECT_EQ(defaults.norm_eps, 1e-5);
  EXPECT_EQ(defaults.rope.rotary_dims, 4) << "0.5 of 8";
  // Phi-2: int(80 * 0.4).
  EXPECT_EQ(parse(changed("phi", {{"head_dim", 80}, {"partial_rotary_factor", 0.4}})).rope.rotary_dims, 32);
  EXPECT_EQ(parse(changed("phi", {{"partial_rotary_factor", nullptr},
                                  {"rope_parameters",
                                   {{"rope_type", "default"}, {"rope_theta", 500}, {"partial_rotary_factor", 0.25}}}}))
                .rope.rotary_dims,
            2);
}

TEST(RopeConfigTest, EveryTypeInBothSpellings) {
  const Json linear = {{"factor", 2.5}}, llama3 = {{"factor", 8},
                                                   {"low_freq_factor", 1},
                                                   {"high_freq_factor", 4},
                                                   {"original_max_position_embeddings", 8192}};
  const Json yarn = {{"factor", 4},
                     {"original_max_position_embeddings", 16},
                     {"beta_fast", 16},
                     {"beta_slow", 2},
                     {"attention_factor", 1.5},
                     {"mscale", 0.7},
                     {"mscale_all_dim", 0.9},
                     {"truncate", false}};
  for (const auto& [type, fields] :
       {std::pair<std::string, Json>{"linear", linear}, {"dynamic", linear}, {"llama3", llama3}, {"yarn", yarn}}) {
    Json v4 = fields, old = fields, v5 = fields;
    v4["rope_type"] = type;
    old["type"] = type;
    v5["rope_type"] = type;
    v5["rope_theta"] = 10000.0;
    std::vector<RopeConfig> read{
        parse(changed("llama", {{"rope_scaling", v4}})).rope, parse(changed("llama", {{"rope_scaling", old}})).rope,
        parse(changed("llama", {{"rope_parameters", v5}, {"rope_theta", nullptr}})).rope,
        parse(changed("llama", {{"rope_parameters", v5}, {"rope_scaling", Json::object()}, {"rope_theta", 3}})).rope};
    for (const RopeConfig& rope : read) {
      EXPECT_EQ(rope.type, type);
      EXPECT_EQ(rope.theta, 10000);
      EXPECT_EQ(rope.factor, fields["factor"].get<double>());
      if (type == "llama3") {
        EXPECT_EQ(rope.high_freq_factor, 4);
        EXPECT_EQ(rope.original_max_positions, 8192);
      }
      if (type != "yarn") continue;
      EXPECT_EQ(rope.original_max_positions, 16);
      EXPECT_EQ(rope.beta_fast, 16);
      EXPECT_EQ(rope.beta_slow, 2);
      EXPECT_EQ(rope.attention_factor, 1.5);
      EXPECT_EQ(rope.mscale, 0.7);
      EXPECT_EQ(rope.mscale_all_dim, 0.9);
      EXPECT_FALSE(rope.truncate);
    }
  }
  // rope_scaling wins over rope_parameters; `rope_type` over `type`; without it the trained length is the model's.
  const RopeConfig both =
      parse(changed("llama", {{"rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 4}}},
                              {"rope_parameters", {{"rope_type", "llama3"}}}}))
          .rope;
  EXPECT_EQ(both.type, "yarn");
  EXPECT_EQ(both.original_max_positions, 64);
  EXPECT_EQ(both.beta_fast, 32);
  // A length beside the description wins over the one in it.
  EXPECT_EQ(parse(changed("llama", {{"original_max_position_embeddings", 32},
                                    {"rope_scaling",
                                     {{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 16}}}}))
                .rope.original_max_positions,
            32);
}

TEST(RopeConfigTest, WarnsWhereYarnsFactorIsNotTheRatioOfLengths) {
  const testing::TempDir folder;
  const auto warnings = [&](double factor) {
    const std::filesystem::path file = folder / std::to_string(factor);
    const LogFile log(file, LogLevel::kWarning);
    parse(changed(
        "qwen2", {{"rope_scaling", {{"type", "yarn"}, {"factor", factor}, {"original_max_position_embeddings", 16}}}}));
    return read_file(file);
  };
  EXPECT_EQ(warnings(4), "") << "64 / 16";
  EXPECT_THAT(warnings(2), AllOf(HasSubstr("yarn_factor_differs"), HasSubstr("dir/config.json"), HasSubstr("factor=2"),
                                 HasSubstr("=4")));
}

struct Refused {
  std::string name;
  std::string family;
  Json changes;
  std::vector<std::string> says;
};
void PrintTo(const Refused& refused, std::ostream* out) {
  *out << refused.name;
}
class RefusedConfigTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedConfigTest, NamesFileKeyAndReason) {
  const std::string message = refusal(changed(GetParam().family, GetParam().changes));
  EXPECT_THAT(message, HasSubstr("dir/config.json"));
  for (const std::string& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
}

Json scaling(Json fields) {
  return {{"rope_scaling", std::move(fields)}};
}

INSTANTIATE_TEST_SUITE_P(
    Families, RefusedConfigTest,
    ::testing::Values(
        Refused{"llama_gelu", "llama", {{"hidden_act", "gelu_new"}}, {"`hidden_act`", "gelu_new", "\"silu\""}},
        Refused{"llama_partial", "llama", {{"partial_rotary_factor", 0.5}}, {"`partial_rotary_factor`", "0.5"}},
        Refused{"qwen2_gelu", "qwen2", {{"hidden_act", "gelu"}}, {"`hidden_act`", "\"silu\""}},
        Refused{"qwen2_mixed",
                "qwen2",
                {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 1}},
                {"use_sliding_window", "max_window_layers", "1 of 2", "not supported"}},
        Refused{"qwen2_mixed_types",
                "qwen2",
                {{"use_sliding_window", true},
                 {"sliding_window", 8},
                 {"layer_types", {"full_attention", "sliding_attention"}}},
                {"use_sliding_window", "layer_types", "1 of 2"}},
        Refused{"qwen2_types_without_window",
                "qwen2",
                {{"layer_types", {"sliding_attention", "sliding_attention"}}},
                {"`layer_types`", "use_sliding_window"}},
        Refused{"qwen2_types_short", "qwen2", {{"layer_types", {"full_attention"}}}, {"`layer_types`", "2 values"}},
        Refused{"qwen2_types_unknown",
                "qwen2",
                {{"layer_types", {"full_attention", "linear_attention"}}},
                {"`layer_types`", "linear_attention"}},
        Refused{"qwen2_types_number", "qwen2", {{"layer_types", {1, 2}}}, {"`layer_types`", "strings"}},
        Refused{"qwen2_use_text", "qwen2", {{"use_sliding_window", "yes"}}, {"`use_sliding_window`", "\"yes\""}},
        Refused{"qwen2_window_text",
                "qwen2",
                {{"use_sliding_window", true}, {"sliding_window", "8"}, {"max_window_layers", 0}},
                {"`sliding_window`", "\"8\""}},
        Refused{"qwen2_window_zero",
                "qwen2",
                {{"use_sliding_window", true}, {"sliding_window", 0}, {"max_window_layers", 0}},
                {"`sliding_window`", "is 0"}},
        Refused{"qwen2_layers_text",
                "qwen2",
                {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", "0"}},
                {"`max_window_layers`"}},
        Refused{"phi_silu", "phi", {{"hidden_act", "silu"}}, {"`hidden_act`", "\"gelu_new\""}},
        Refused{"phi_qk_layernorm", "phi", {{"qk_layernorm", true}}, {"`qk_layernorm`", "true", "not supported"}},
        Refused{"phi_qk_text", "phi", {{"qk_layernorm", 0}}, {"`qk_layernorm`", "is 0"}},
        Refused{"phi_eps", "phi", {{"layer_norm_eps", 0}}, {"`layer_norm_eps`", "is 0"}},
        Refused{"phi_partial_odd",
                "phi",
                {{"partial_rotary_factor", 0.4}},
                {"`partial_rotary_factor`", "0.4", "head_dim 8", "3 dimensions"}},
        Refused{
            "phi_partial_none", "phi", {{"partial_rotary_factor", 0.1}}, {"`partial_rotary_factor`", "0 dimensions"}},
        Refused{"phi_partial_zero", "phi", {{"partial_rotary_factor", 0}}, {"`partial_rotary_factor`", "is 0"}},
        Refused{"phi_partial_large", "phi", {{"partial_rotary_factor", 1.5}}, {"`partial_rotary_factor`", "1.5"}},
        Refused{"phi_partial_text", "phi", {{"partial_rotary_factor", "half"}}, {"`partial_rotary_factor`", "half"}},
        Refused{"rope_unknown",
                "llama",
                scaling({{"rope_type", "longrope"}, {"factor", 2}}),
                {"rope_scaling", "`rope_type`", "longrope", "yarn"}},
        Refused{"rope_unknown_old", "llama", scaling({{"type", "su"}}), {"rope_scaling", "`type`", "\"su\""}},
        Refused{"rope_type_number", "llama", scaling({{"rope_type", 3}}), {"rope_scaling", "`rope_type`", "is 3"}},
        Refused{"rope_text", "llama", {{"rope_parameters", "yarn"}}, {"rope_parameters", "object"}},
        Refused{"rope_per_layer",
                "llama",
                {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
                {"rope_parameters", "`full_attention`", "layers"}},
        Refused{"rope_theta_text", "llama", {{"rope_theta", "10000"}}, {"`rope_theta`", "\"10000\""}},
        Refused{"rope_theta_inner",
                "llama",
                {{"rope_parameters", {{"rope_theta", -1}}}},
                {"rope_parameters", "`rope_theta`", "-1"}},
        Refused{"linear_no_factor", "llama", scaling({{"type", "linear"}}), {"rope_scaling", "`factor`", "missing"}},
        Refused{"linear_factor_text", "llama", scaling({{"type", "linear"}, {"factor", "2"}}), {"`factor`", "\"2\""}},
        Refused{"dynamic_factor_zero", "llama", scaling({{"type", "dynamic"}, {"factor", 0}}), {"`factor`", "is 0"}},
        Refused{"dynamic_two_dims",
                "phi",
                {{"partial_rotary_factor", 0.25}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}},
                {"dynamic", "2 dimensions"}},
        Refused{"llama3_no_low",
                "llama",
                scaling({{"rope_type", "llama3"}, {"factor", 8}, {"high_freq_factor", 4}}),
                {"`low_freq_factor`", "missing"}},
        Refused{"llama3_high",
                "llama",
                scaling({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
                {"`high_freq_factor`", "low_freq_factor 4"}},
        Refused{"llama3_original",
                "llama",
                scaling({{"rope_type", "llama3"},
                         {"factor", 8},
                         {"low_freq_factor", 1},
                         {"high_freq_factor", 4},
                         {"original_max_position_embeddings", 0.5}}),
                {"`original_max_position_embeddings`", "0.5"}},
        Refused{"yarn_no_factor", "qwen2", scaling({{"rope_type", "yarn"}}), {"`factor`", "missing"}},
        Refused{"yarn_betas",
                "qwen2",
                scaling({{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", 1}, {"beta_slow", 2}}),
                {"`beta_fast`", "beta_slow"}},
        Refused{"yarn_beta_negative",
                "qwen2",
                scaling({{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", -1}}),
                {"`beta_fast`", "-1"}},
        Refused{"yarn_attention_factor",
                "qwen2",
                scaling({{"rope_type", "yarn"}, {"factor", 4}, {"attention_factor", 0}}),
                {"`attention_factor`", "is 0"}},
        Refused{"yarn_truncate",
                "qwen2",
                scaling({{"rope_type", "yarn"}, {"factor", 4}, {"truncate", 1}}),
                {"`truncate`", "is 1"}},
        Refused{"yarn_mscale", "qwen2", scaling({{"rope_type", "yarn"}, {"factor", 4}, {"mscale", "1"}}), {"`mscale`"}},
        Refused{"yarn_theta",
                "qwen2",
                {{"rope_theta", 1}, {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}},
                {"rope_theta is 1", "yarn"}}),
    [](const auto& test) { return test.param.name; });

TEST(CountParametersTest, OfPhiByHand) {
  // H 32, I 48, L 2, V 61: embedding and head 61 * 32 each, head bias 61, final norm 2 * 32; per layer norm 2 * 32, q,
  // k, v and dense 32 * 32 + 32 each; FFN 2 * 48 * 32 + 48 + 32.
  const int64_t rest = 2 * 61 * 32 + 61 + 64 + 2 * (64 + 4 * (32 * 32 + 32));
  const ParameterCount dense = count_parameters(testing::tiny_config("phi"));
  EXPECT_EQ(dense.total, rest + 2 * (2 * 48 * 32 + 48 + 32));
  EXPECT_EQ(dense.active, dense.total);
  // 4 experts of 12 with up biases, a router and one output bias; two experts are used per token.
  const ParameterCount moe = count_parameters(testing::tiny_moe_config(4, 2, 12, 0, "phi"));
  EXPECT_EQ(moe.total, rest + 2 * (4 * (2 * 12 * 32 + 12) + 4 * 32 + 32));
  EXPECT_EQ(moe.active, rest + 2 * (2 * (2 * 12 * 32 + 12) + 4 * 32 + 32));
}

TEST(CountParametersTest, OfQwen2ByHand) {
  const ParameterCount llama = count_parameters(testing::tiny_config("llama")),
                       qwen2 = count_parameters(testing::tiny_config("qwen2"));
  EXPECT_EQ(qwen2.total, llama.total + 2 * (32 + 16 + 16));
}

}  // namespace
}  // namespace moe
