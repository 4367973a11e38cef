#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/error.h"
#include "testing/message_of.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Json = nlohmann::json;

Json dense_json() {
  return {{"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 100},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000},
          {"hidden_act", "silu"},
          {"eos_token_id", {2, 3}},
          {"tie_word_embeddings", true},
          {"max_position_embeddings", 128}};
}

Json moe_json() {
  Json json = dense_json();
  json["model_type"] = "dense2moe";
  json["moe"] = {{"base_model_type", "llama"}, {"num_experts", 4},        {"top_k", 2},
                 {"expert_widths", {24, 24}},  {"shared_widths", {0, 8}}, {"output_scale", {1.5, 2}}};
  return json;
}

ModelConfig parse(const Json& json) {
  return parse_model_config(json.dump(), "dir/config.json");
}

TEST(ModelConfigTest, ReadsDenseModelWithDefaults) {
  Json json = dense_json();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
                          "max_position_embeddings", "hidden_act", "eos_token_id"}) {
    json.erase(key);
  }
  json["head_dim"] = nullptr;
  json["pretraining_tp"] = 4;
  const ModelConfig config = parse(json);
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.norm_eps, 1e-6);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_EQ(config.max_positions, 2048);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.moe.has_value());
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfigTest, ReadsBothSpellingsOfRope) {
  Json json = dense_json();
  json["rope_theta"] = 500000;  // an integer where a float is meant
  json["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(json).rope.theta, 500000);
  json.erase("rope_theta");
  json.erase("rope_scaling");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 12345.5}};
  EXPECT_EQ(parse(json).rope.theta, 12345.5);
  json["rope_scaling"] = {{"type", "default"}};  // wins whole: the theta of rope_parameters goes with it
  EXPECT_EQ(parse(json).rope.theta, 10000);
}

TEST(ModelConfigTest, ReadsEndTokensAsNumberOrList) {
  Json json = dense_json();
  EXPECT_EQ(parse(json).eos_token_ids, (std::vector<int64_t>{2, 3}));
  json["eos_token_id"] = 7;
  EXPECT_EQ(parse(json).eos_token_ids, (std::vector<int64_t>{7}));
}

TEST(ModelConfigTest, NativeConfigSurvivesWritingAndReading) {
  Json json = moe_json();
  json["some_unknown_key"] = {{"kept", true}};
  json["moe"]["topk_norm"] = "straight_through";
  json["moe"]["score"] = "sigmoid";
  json["moe"]["selection_bias"] = true;
  json["moe"]["output_bias"] = true;
  json["moe"]["conversion"] = {{"method", "independent_random"}, {"seed", 7}};
  const ModelConfig first = parse(json);
  const Json written = to_json(first);
  EXPECT_EQ(written["model_type"], "dense2moe");
  EXPECT_EQ(written["some_unknown_key"], json["some_unknown_key"]);
  EXPECT_EQ(written["architectures"], Json::array({"Dense2MoeForCausalLM"}));
  const ModelConfig second = parse(written);
  ASSERT_TRUE(second.moe.has_value());
  EXPECT_EQ(second.model_type, "llama");
  EXPECT_EQ(second.moe->num_experts, 4);
  EXPECT_EQ(second.moe->top_k, 2);
  EXPECT_EQ(second.moe->expert_widths, (std::vector<int64_t>{24, 24}));
  EXPECT_EQ(second.moe->shared_widths, (std::vector<int64_t>{0, 8}));
  EXPECT_EQ(second.moe->output_scale, (std::vector<double>{1.5, 2}));
  EXPECT_EQ(second.moe->topk_norm, "straight_through");
  EXPECT_EQ(second.moe->score, "sigmoid");
  EXPECT_TRUE(second.moe->has_selection_bias);
  EXPECT_TRUE(second.moe->has_output_bias);
  json["moe"].erase("score");
  json["moe"].erase("selection_bias");
  json["moe"].erase("output_bias");
  EXPECT_FALSE(to_json(parse(json))["moe"].contains("selection_bias"));
  EXPECT_FALSE(to_json(parse(json))["moe"].contains("output_bias"));
  EXPECT_FALSE(to_json(parse(json))["moe"].contains("shared_gate"));
  json["moe"].update({{"shared_gate", "softmax"}, {"shared_gate_rows", 2}, {"shared_gate_scale", 1.5}});
  const ModelConfig gated = parse(to_json(parse(json)));
  EXPECT_EQ(gated.moe->shared_gate, "softmax");
  EXPECT_EQ(gated.moe->shared_gate_rows, 2);
  EXPECT_EQ(gated.moe->shared_gate_scale, 1.5);
  EXPECT_EQ(parse(json).moe->score, "softmax") << "of models of before there was another";
  EXPECT_EQ(second.moe->conversion, json["moe"]["conversion"]);
  EXPECT_EQ(to_json(second), written);
}

TEST(ModelConfigTest, CountsParametersByHand) {
  // H 64, I 96, L 2, V 100, heads 4 x 16, KV 2 x 16, tied: embedding 6400 + final norm 64 + per layer (norms 128, q and
  // o 4096 each, k and v 2048 each) + FFN 3 * 96 * 64 = 18432.
  const int64_t rest = 6400 + 64 + 2 * (128 + 2 * 4096 + 2 * 2048);
  const ParameterCount dense = count_parameters(parse(dense_json()));
  EXPECT_EQ(dense.total, rest + 2 * 18432);
  EXPECT_EQ(dense.active, dense.total);
  // 4 experts of 24 and a router 4 x 64 per layer, and a shared expert of 8 in the second; two experts are used per
  // token.
  const ParameterCount moe = count_parameters(parse(moe_json()));
  EXPECT_EQ(moe.total, rest + 2 * (4 * 3 * 24 * 64 + 4 * 64) + 3 * 8 * 64);
  EXPECT_EQ(moe.active, rest + 2 * (2 * 3 * 24 * 64 + 4 * 64) + 3 * 8 * 64);
}

struct BadConfig {
  std::string name;
  std::string pointer;  ///< JSON pointer of what is replaced
  Json value;           ///< discarded: erased
  std::vector<std::string> says;
};

class ModelConfigErrorTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(ModelConfigErrorTest, NamesFileKeyAndValue) {
  const BadConfig& bad = GetParam();
  Json json = bad.pointer.rfind("/moe", 0) == 0 ? moe_json() : dense_json();
  const Json::json_pointer pointer(bad.pointer);
  if (bad.value.is_discarded()) {
    json[pointer.parent_pointer()].erase(pointer.back());
  } else {
    json[pointer] = bad.value;
  }
  const std::string message = testing::message_of([&] { parse(json); });
  EXPECT_THAT(message, HasSubstr("dir/config.json"));
  for (const std::string& part : bad.says) EXPECT_THAT(message, HasSubstr(part));
}

const Json kErased(Json::value_t::discarded);

INSTANTIATE_TEST_SUITE_P(
    , ModelConfigErrorTest,
    ::testing::Values(
        BadConfig{"no_type", "/model_type", kErased, {"`model_type`", "missing"}},
        BadConfig{"unknown_type", "/model_type", "mamba", {"model_type", "mamba", "llama"}},
        BadConfig{"no_hidden", "/hidden_size", kErased, {"`hidden_size`", "missing"}},
        BadConfig{"hidden_text", "/hidden_size", "64", {"`hidden_size`", "\"64\"", "integer"}},
        BadConfig{"hidden_float", "/hidden_size", 64.5, {"`hidden_size`", "64.5"}},
        BadConfig{"hidden_zero", "/hidden_size", 0, {"`hidden_size`", "is 0"}},
        BadConfig{"layers_negative", "/num_hidden_layers", -1, {"`num_hidden_layers`", "-1"}},
        BadConfig{"layers_huge", "/num_hidden_layers", 4000000000, {"`num_hidden_layers`", "4000000000"}},
        BadConfig{"vocab_beyond_int64", "/vocab_size", 18446744073709551615u, {"`vocab_size`", "18446744073709551615"}},
        BadConfig{"heads_do_not_divide", "/num_attention_heads", 6, {"`num_attention_heads`", "is 6", "64"}},
        BadConfig{"kv_heads_do_not_divide", "/num_key_value_heads", 3, {"`num_key_value_heads`", "is 3", "4"}},
        BadConfig{"odd_head_dim", "/head_dim", 15, {"head_dim", "15", "odd"}},
        BadConfig{"eps", "/rms_norm_eps", 0.0, {"`rms_norm_eps`"}},
        BadConfig{"theta", "/rope_theta", -1, {"rope_theta", "-1"}},
        BadConfig{"activation", "/hidden_act", "gelu", {"`hidden_act`", "\"gelu\"", "silu"}},
        BadConfig{"attention_bias", "/attention_bias", "true", {"`attention_bias`", "true"}},
        BadConfig{"mlp_bias", "/mlp_bias", 1, {"`mlp_bias`", "is 1"}},
        BadConfig{"tie_text", "/tie_word_embeddings", "yes", {"`tie_word_embeddings`", "\"yes\""}},
        BadConfig{"partial_rotary", "/partial_rotary_factor", 0.5, {"`partial_rotary_factor`", "0.5"}},
        BadConfig{"rope_scaling",
                  "/rope_scaling",
                  {{"rope_type", "llama3"}, {"factor", 8}},
                  {"rope_scaling", "`low_freq_factor`", "missing"}},
        BadConfig{"rope_scaling_old",
                  "/rope_scaling",
                  {{"type", "linear"}, {"factor", 0}},
                  {"rope_scaling", "`factor`", "is 0"}},
        BadConfig{"rope_parameters",
                  "/rope_parameters",
                  {{"rope_type", "longrope"}},
                  {"rope_parameters", "`rope_type`", "longrope", "yarn"}},
        BadConfig{"rope_not_object", "/rope_scaling", 3, {"rope_scaling", "object"}},
        BadConfig{"eos_text", "/eos_token_id", "</s>", {"`eos_token_id`", "</s>"}},
        BadConfig{"no_moe", "/moe", kErased, {"`moe`", "missing"}},
        BadConfig{"moe_base", "/moe/base_model_type", "gpt", {"base_model_type", "gpt", "llama"}},
        BadConfig{"moe_top_k", "/moe/top_k", 5, {"moe", "`top_k`", "is 5", "4"}},
        BadConfig{"moe_top_k_zero", "/moe/top_k", 0, {"`top_k`", "is 0"}},
        BadConfig{"moe_experts", "/moe/num_experts", "4", {"`num_experts`", "\"4\""}},
        BadConfig{"moe_widths", "/moe/expert_widths", {24}, {"`expert_widths`", "[24]", "2 values"}},
        BadConfig{"moe_width_zero", "/moe/expert_widths", {0, 0}, {"`expert_widths`", "[0,0]", "in some layer"}},
        BadConfig{"moe_width_negative", "/moe/expert_widths", {24, -1}, {"`expert_widths`", "at least 0"}},
        BadConfig{"moe_shared_without_experts", "/moe/expert_widths", {24, 0}, {"`shared_widths`", "0 in layer 1"}},
        BadConfig{"moe_width_in_list_zero", "/moe/expert_widths", {24, {24, 0}}, {"`expert_widths`", "at least 1"}},
        BadConfig{
            "moe_widths_of_three", "/moe/expert_widths", {24, {1, 2, 3}}, {"`expert_widths`", "layer 1 one width"}},
        BadConfig{"moe_widths_of_none", "/moe/expert_widths", {24, nlohmann::json::array()}, {"no empty list"}},
        BadConfig{"moe_scale", "/moe/output_scale", {1.0, "x"}, {"`output_scale`", "numbers"}},
        BadConfig{"moe_scale_missing", "/moe/output_scale", kErased, {"`output_scale`", "missing"}},
        BadConfig{"moe_score", "/moe/score", "relu", {"`score`", "relu", "softmax", "sigmoid"}},
        BadConfig{"moe_norm", "/moe/topk_norm", "none", {"`topk_norm`", "none", "straight_through"}},
        BadConfig{"moe_router", "/moe/router", "tanh", {"`router`", "tanh", "linear", "mlp", "product"}},
        BadConfig{"moe_router_noise", "/moe/router_noise", "normal", {"`router_noise`", "normal", "learned"}},
        BadConfig{"moe_shared_gate", "/moe/shared_gate", "tanh", {"`shared_gate`", "tanh", "softmax", "sigmoid"}},
        BadConfig{"moe_shared_gate_rows", "/moe/shared_gate", "softmax", {"`shared_gate_rows`", "missing"}}),
    [](const auto& test) { return test.param.name; });

TEST(ModelConfigTest, SaysWhereJsonIsBroken) {
  EXPECT_THAT([&] { parse_model_config("{\"model_type\": ", "dir/config.json"); },
              ThrowsMessage<Corruption>(AllOf(HasSubstr("dir/config.json"), HasSubstr("JSON"))));
  EXPECT_THROW(parse_model_config("[1]", "dir/config.json"), InvalidArgument);
}

}  // namespace
}  // namespace moe
