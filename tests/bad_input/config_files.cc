#include <functional>

#include "bad_input/bad_files.h"

namespace moe::testing {
namespace {

using nlohmann::json;
constexpr char kFile[] = "config.json";

BadFile changed(const std::string& name, const std::function<void(json&)>& change, std::vector<std::string> says) {
  json config = good_config();
  change(config);
  return {name, kFile, config.dump(1), std::move(says)};
}

/// One key with another value; the message names both.
BadFile with(const std::string& key, const json& value, std::vector<std::string> says = {}) {
  says.push_back("`" + key + "`");
  if (!value.is_null()) says.push_back(value.dump());
  return changed(
      key + "_is_" + value.dump(), [&](json& config) { config[key] = value; }, std::move(says));
}

/// Every size: absent, and of each wrong kind.
void add_sizes(std::vector<BadFile>& files) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    files.push_back(changed(std::string(key) + "_missing", [&](json& config) { config.erase(key); },
                            {std::string("`") + key + "` is missing"}));
    files.push_back(with(key, "32", {"an integer"}));
    files.push_back(with(key, 32.5, {"an integer"}));
    files.push_back(with(key, true, {"an integer"}));
    files.push_back(with(key, json::array({32}), {"an integer"}));
    files.push_back(with(key, 0, {"at least 1"}));
    files.push_back(with(key, -32, {"at least 1"}));
    files.push_back(with(key, int64_t{1} << 40, {"at most"}));
    files.push_back(with(key, UINT64_MAX, {"at most"}));
  }
}

void add_rope(std::vector<BadFile>& files) {
  const auto scaling = [&](const std::string& name, const json& value, std::vector<std::string> says) {
    files.push_back(changed(
        "rope_" + name, [&](json& config) { config["rope_scaling"] = value; }, std::move(says)));
  };
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 32}};
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}};
  const auto without = [](json from, const char* key) {
    from.erase(key);
    return from;
  };
  const auto put = [](json from, const char* key, const json& value) {
    from[key] = value;
    return from;
  };
  scaling("text", "linear", {"rope_scaling", "object"});
  scaling("list", json::array(), {"rope_scaling", "object"});
  scaling("type_unknown", {{"rope_type", "longrope"}, {"factor", 4.0}},
          {"rope_scaling", "`rope_type`", "longrope", "yarn"});
  scaling("type_number", {{"type", 3}}, {"rope_scaling", "`type` is 3"});
  scaling("linear_without_factor", {{"type", "linear"}}, {"rope_scaling", "`factor` is missing"});
  scaling("linear_factor_text", {{"type", "linear"}, {"factor", "4"}}, {"`factor` is \"4\""});
  scaling("linear_factor_zero", {{"type", "linear"}, {"factor", 0}}, {"`factor` is 0"});
  scaling("dynamic_factor_negative", {{"type", "dynamic"}, {"factor", -2.0}}, {"`factor` is -2.0"});
  scaling("llama3_without_low", without(llama3, "low_freq_factor"), {"`low_freq_factor` is missing"});
  scaling("llama3_without_high", without(llama3, "high_freq_factor"), {"`high_freq_factor` is missing"});
  scaling("llama3_low_equals_high", put(llama3, "low_freq_factor", 4.0),
          {"`high_freq_factor` is 4.0", "low_freq_factor 4"});
  scaling("llama3_original_zero", put(llama3, "original_max_position_embeddings", 0),
          {"`original_max_position_embeddings` is 0"});
  scaling("yarn_without_factor", without(yarn, "factor"), {"`factor` is missing"});
  scaling("yarn_betas_swapped", put(put(yarn, "beta_fast", 1), "beta_slow", 32), {"`beta_fast` is 1", "beta_slow"});
  scaling("yarn_attention_factor_negative", put(yarn, "attention_factor", -1.0), {"`attention_factor` is -1.0"});
  scaling("yarn_truncate_text", put(yarn, "truncate", "no"), {"`truncate` is \"no\""});
  scaling("yarn_mscale_text", put(yarn, "mscale", "1"), {"`mscale` is \"1\""});
  scaling("by_layer", {{"full_attention", {{"rope_type", "default"}}}}, {"`full_attention`"});
  files.push_back(changed("rope_parameters_theta_zero",
                          [](json& config) {
                            config.erase("rope_theta");
                            config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 0}};
                          },
                          {"rope_parameters", "`rope_theta` is 0"}));
}

void add_families(std::vector<BadFile>& files) {
  files.push_back(changed("qwen2_windows_in_some_layers",
                          [](json& config) {
                            config["model_type"] = "qwen2";
                            config["use_sliding_window"] = true;
                            config["sliding_window"] = 16;
                            config["max_window_layers"] = 1;
                          },
                          {"use_sliding_window", "1 of 2 layers", "not supported"}));
  files.push_back(changed("phi_qk_layernorm",
                          [](json& config) {
                            config["model_type"] = "phi";
                            config["qk_layernorm"] = true;
                          },
                          {"`qk_layernorm` is true"}));
  files.push_back(changed("phi_silu",
                          [](json& config) {
                            config["model_type"] = "phi";
                            config["hidden_act"] = "silu";
                          },
                          {"`hidden_act` is \"silu\"", "gelu_new"}));
  files.push_back(changed("phi_rotary_factor_above_one",
                          [](json& config) {
                            config["model_type"] = "phi";
                            config["partial_rotary_factor"] = 1.5;
                          },
                          {"`partial_rotary_factor` is 1.5"}));
}

void add_mixtures(std::vector<BadFile>& files) {
  const json moe = {{"base_model_type", "llama"}, {"num_experts", 4},        {"top_k", 2},
                    {"expert_widths", {12, 12}},  {"shared_widths", {0, 0}}, {"output_scale", {1.0, 1.0}}};
  const auto with_moe = [&](const std::string& name, const std::function<void(json&)>& change,
                            std::vector<std::string> says) {
    json changed_moe = moe;
    change(changed_moe);
    says.emplace_back("moe");
    files.push_back(changed(
        "native_" + name,
        [&](json& config) {
          config["model_type"] = "dense2moe";
          config["moe"] = changed_moe;
        },
        std::move(says)));
  };
  files.push_back(
      changed("native_without_moe", [](json& config) { config["model_type"] = "dense2moe"; }, {"`moe` is missing"}));
  with_moe("moe_list", [](json& m) { m = json::array(); }, {"object"});
  with_moe("base_unknown", [](json& m) { m["base_model_type"] = "bert"; }, {"base_model_type", "bert", "llama"});
  with_moe("base_missing", [](json& m) { m.erase("base_model_type"); }, {"`base_model_type` is missing"});
  with_moe("no_experts", [](json& m) { m["num_experts"] = 0; }, {"`num_experts` is 0"});
  with_moe("two_thousand_million_experts", [](json& m) { m["num_experts"] = 2'000'000'000; },
           {"`num_experts` is 2000000000"});
  with_moe("top_k_above_experts", [](json& m) { m["top_k"] = 5; }, {"`top_k` is 5", "num_experts 4"});
  with_moe("top_k_zero", [](json& m) { m["top_k"] = 0; }, {"`top_k` is 0"});
  with_moe("widths_of_one_layer", [](json& m) { m["expert_widths"] = {12}; }, {"`expert_widths` is [12]", "2 values"});
  with_moe("width_zero", [](json& m) { m["expert_widths"] = {0, 0}; }, {"`expert_widths`", "at least 1"});
  with_moe("width_negative", [](json& m) { m["expert_widths"] = {12, -1}; }, {"`expert_widths`", "at least 0"});
  with_moe("shared_of_a_dense_layer",
           [](json& m) {
             m["expert_widths"] = {12, 0};
             m["shared_widths"] = {0, 4};
           },
           {"`shared_widths`", "0 in layer 1"});
  // A layer that is dense has the tensors of one, which these files hold.
  with_moe("dense_layer_before_a_mixture",
           [](json& m) {
             m["expert_widths"] = {0, 12};
           },
           {"missing: model.layers.1.mlp.router.weight"});
  with_moe("width_text", [](json& m) { m["expert_widths"] = {"12", 12}; }, {"`expert_widths`", "an integer"});
  with_moe("widths_number", [](json& m) { m["expert_widths"] = 12; }, {"`expert_widths` is 12"});
  with_moe("shared_negative", [](json& m) { m["shared_widths"] = {0, -1}; }, {"`shared_widths`", "at least 0"});
  with_moe("scale_text", [](json& m) { m["output_scale"] = {1.0, "x"}; }, {"`output_scale`", "numbers"});
  with_moe("scale_missing", [](json& m) { m.erase("output_scale"); }, {"`output_scale` is missing"});
  with_moe("score_relu", [](json& m) { m["score"] = "relu"; }, {"`score` is \"relu\"", "softmax"});
  with_moe("topk_norm_unknown", [](json& m) { m["topk_norm"] = "max"; }, {"`topk_norm` is \"max\"", "renorm"});
  const auto with_gate = [&](const std::string& name, const json& gate, std::vector<std::string> says) {
    with_moe(
        "shared_gate_" + name,
        [&](json& m) {
          m["shared_widths"] = {8, 8};
          m.update(gate);
        },
        std::move(says));
  };
  with_moe("shared_gate_of_nothing", [](json& m) { m["shared_gate"] = "sigmoid"; },
           {"`shared_gate` is \"sigmoid\"", "`shared_widths` is 0 in every layer"});
  with_gate("relu", {{"shared_gate", "relu"}}, {"`shared_gate` is \"relu\"", "sigmoid"});
  with_gate("of_one_row", {{"shared_gate", "softmax"}, {"shared_gate_rows", 1}},
            {"`shared_gate_rows` is 1", "at least 2"});
  with_gate("of_two_sigmoids", {{"shared_gate", "sigmoid"}, {"shared_gate_rows", 2}}, {"`shared_gate_rows` is 2"});
  with_gate("that_does_not_divide", {{"shared_gate", "softmax"}, {"shared_gate_rows", 3}},
            {"`shared_gate_rows` is 3", "one is 8"});
  with_gate("without_scale", {{"shared_gate", "sigmoid"}, {"shared_gate_rows", 1}}, {"`shared_gate_scale` is missing"});
  with_gate("scaled_by_0", {{"shared_gate", "sigmoid"}, {"shared_gate_rows", 1}, {"shared_gate_scale", 0}},
            {"`shared_gate_scale` is 0", "above 0"});
  with_moe("router_gated", [](json& m) { m["router"] = "gated"; }, {"`router` is \"gated\"", "product"});
}

}  // namespace

json good_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 300},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

std::vector<BadFile> bad_configs() {
  std::vector<BadFile> files = broken_json(kFile, good_config().dump(1), Json::kOfPython);
  add_sizes(files);
  files.push_back(
      changed("no_model_type", [](json& config) { config.erase("model_type"); }, {"`model_type` is missing"}));
  files.push_back(with("model_type", 7));
  files.push_back(with("model_type", "bert", {"llama", "qwen2", "phi"}));
  files.push_back(with("num_attention_heads", 5, {"hidden_size 32"}));
  files.push_back(with("num_key_value_heads", 3, {"num_attention_heads 4"}));
  files.push_back(with("num_key_value_heads", "2", {"an integer"}));
  files.push_back(with("num_hidden_layers", 1'000'000, {"at most"}));
  files.push_back(changed("head_dim_odd", [](json& config) { config["head_dim"] = 7; }, {"head_dim 7", "odd"}));
  files.push_back(with("head_dim", -8, {"at least 1"}));
  files.push_back(with("hidden_act", "relu", {"silu"}));
  files.push_back(with("hidden_act", "SiLU", {"silu"}));
  files.push_back(with("hidden_act", 1));
  files.push_back(with("rms_norm_eps", "1e-5", {"a number"}));
  files.push_back(with("rms_norm_eps", 0, {"above 0"}));
  files.push_back(with("rms_norm_eps", -1e-5, {"above 0"}));
  files.push_back(with("rope_theta", "10000", {"a number"}));
  files.push_back(with("rope_theta", 0, {"above 0"}));
  for (const char* literal : {"NaN", "Infinity", "-Infinity"}) {
    std::string text = good_config().dump();
    text.replace(text.find("10000.0"), 7, literal);
    files.push_back({std::string("rope_theta_is_") + literal,
                     kFile,
                     text,
                     {std::string("`rope_theta` is ") + literal, "a finite number"}});
    text = good_config().dump();
    text.replace(text.find("\"vocab_size\":300"), 16, std::string("\"vocab_size\":") + literal);
    files.push_back({std::string("vocab_size_is_") + literal,
                     kFile,
                     text,
                     {std::string("`vocab_size` is ") + literal, "an integer"}});
  }
  files.push_back(with("tie_word_embeddings", "yes", {"true or false"}));
  files.push_back(with("attention_bias", 1, {"true or false"}));
  files.push_back(with("mlp_bias", "no", {"true or false"}));
  files.push_back(with("partial_rotary_factor", 0.5, {"whole heads"}));
  files.push_back(with("max_position_embeddings", 0, {"at least 1"}));
  files.push_back(with("bos_token_id", 1.5, {"an integer"}));
  files.push_back(with("bos_token_id", json::array({1}), {"an integer"}));
  files.push_back(with("bos_token_id", "<s>", {"an integer"}));
  files.push_back(with("eos_token_id", "2"));
  files.push_back(with("eos_token_id", json::array({2, "3"})));
  add_rope(files);
  add_families(files);
  add_mixtures(files);
  return files;
}

}  // namespace moe::testing
