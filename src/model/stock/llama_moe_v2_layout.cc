#include "model/stock/llama_moe_v2_layout.h"

#include <algorithm>

#include "common/error.h"
#include "model/config_fields.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

/// Keys that stock mixtral has not.
const std::vector<std::string>& v2_keys() {
  static const std::vector<std::string> keys{"act_rescale",
                                             "add_rescale_bias",
                                             "attn_experts",
                                             "intermediate_size_residual",
                                             "moe_type",
                                             "num_moe_contract_layers",
                                             "scale_factor",
                                             "scale_factor_attn",
                                             "top_k_attn",
                                             "use_attn_moe",
                                             "use_layer_wise_balance"};
  return keys;
}

void refuse_what_we_lack(const JsonFields& fields) {
  if (fields.boolean_or("add_rescale_bias", false))
    fields.fail("add_rescale_bias", "false: biases of the experts' outputs are not supported");
  if (fields.text_or("moe_type", "modulelist") != "modulelist")
    fields.fail("moe_type", "\"modulelist\": experts that are stored in one block are not supported");
  if (fields.has("rope_scaling"))
    fields.fail("rope_scaling", "null: the attention of the program that wrote this takes rope_theta alone");
  // A window that no sequence reaches is none.
  const int64_t longest = fields.integer_or("max_position_embeddings", 131072);
  if (fields.has("sliding_window") && fields.integer("sliding_window") < longest) {
    fields.fail("sliding_window", concat("null, or at least max_position_embeddings ", longest,
                                         ": this model's attention window is not supported"));
  }
}

/// Of the dense FFN: all experts of a layer and its residual, which are a partition of it.
int64_t dense_width(const JsonFields& fields) {
  return fields.integer_or("num_local_experts", 8) * fields.integer_or("intermediate_size", 14336) +
         fields.integer_or("intermediate_size_residual", 0, 0);
}

/// Query heads that share a key-value head, or a part of them, are an expert with a key-value head of its own. In every
/// layer, those without a mixture included.
AttentionExperts read_attention(const JsonFields& fields, const ModelConfig& config) {
  AttentionExperts attention;
  attention.num_experts = fields.integer_or("attn_experts", config.num_kv_heads);
  check_num_experts(fields, "attn_experts", attention.num_experts, config.num_layers);
  if (attention.num_experts % config.num_kv_heads != 0 || config.num_heads % attention.num_experts != 0) {
    fields.fail("attn_experts", concat("a multiple of num_key_value_heads ", config.num_kv_heads,
                                       " that divides num_attention_heads ", config.num_heads));
  }
  attention.top_k = fields.integer("top_k_attn");
  if (attention.top_k > attention.num_experts)
    fields.fail("top_k_attn", concat("at most the ", attention.num_experts, " experts of attention"));
  attention.query_heads = config.num_heads / attention.num_experts;
  attention.kv_heads = 1;
  attention.layers.assign(config.num_layers, 1);
  attention.output_scale.assign(config.num_layers, fields.number("scale_factor_attn"));
  attention.topk_norm = attention.top_k == 1 ? "straight_through" : "renorm";
  return attention;
}

void read_llama_moe_v2_config(const json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  refuse_what_we_lack(fields);
  const int64_t width = fields.integer_or("intermediate_size", 14336);
  json base = source;
  base["intermediate_size"] = dense_width(fields);
  std::vector<std::string> keys = v2_keys();
  keys.insert(keys.end(),
              {"auto_map", "num_local_experts", "num_experts_per_tok", "router_jitter_noise", "sliding_window"});
  read_dense_base(
      base, where, "llama", keys,
      {{"num_key_value_heads", 8}, {"rms_norm_eps", 1e-5}, {"rope_theta", 1e6}, {"max_position_embeddings", 131072}},
      config);
  config.moe = read_stock_moe(fields, config, "num_local_experts", 8, "num_experts_per_tok", 2);
  MoeConfig& moe = *config.moe;
  const int64_t at_each_end = fields.integer_or("num_moe_contract_layers", 0, 0);
  if (2 * at_each_end >= config.num_layers) {
    fields.fail("num_moe_contract_layers",
                concat("less than half of the ", config.num_layers, " layers: the dense model has no experts to read"));
  }
  moe.expert_widths.assign(config.num_layers, 0);
  for (int64_t layer = at_each_end; layer < config.num_layers - at_each_end; ++layer) {
    moe.expert_widths[layer] = width;
    moe.shared_widths[layer] = fields.integer_or("intermediate_size_residual", 0, 0);
  }
  if (fields.boolean_or("use_attn_moe", false)) moe.attention = read_attention(fields, config);
  if (!fields.boolean_or("act_rescale", true)) return;
  const double even = static_cast<double>(moe.num_experts) / static_cast<double>(moe.top_k);
  moe.output_scale = read_stock_scales(fields, "scale_factor", even, config.num_layers);
  for (const int64_t layer : moe.dense_layers()) moe.output_scale[layer] = 1;
}

std::vector<PiecedTensor> llama_moe_v2_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  const int64_t hidden = config.hidden_size;
  return stock_decoder_tensors(
      config, form, {}, [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string stock = prefix + "block_sparse_moe.", native = prefix + "mlp.",
                          residual = prefix + "mlp_residual.", shared = native + "shared_expert.";
        const auto add = [&](const std::string& name, std::vector<int64_t> shape, const std::string& source,
                             bool is_ours) {
          all.push_back({name + ".weight", std::move(shape), {}});
          if (is_ours) all.back().pieces.push_back({source + ".weight"});
        };
        if (!moe.is_mixture(layer)) {
          for (const char* part : {"gate_proj", "up_proj"})
            add(native + part, {config.intermediate_size, hidden}, native + part, true);
          add(native + "down_proj", {hidden, config.intermediate_size}, native + "down_proj", true);
          return;
        }
        add(stock + "gate", {moe.num_experts, hidden}, native + "router", true);
        for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
          const std::string from = concat(native, "experts.", expert, "."), to = concat(stock, "experts.", expert, ".");
          add(to + "w1", {form.expert_width, hidden}, from + "gate_proj", true);
          add(to + "w2", {hidden, form.expert_width}, from + "down_proj", true);
          add(to + "w3", {form.expert_width, hidden}, from + "up_proj", true);
        }
        if (form.shared_width == 0) return;
        const bool has_shared = moe.shared_widths[layer] > 0;
        add(residual + "w1", {form.shared_width, hidden}, shared + "gate_proj", has_shared);
        add(residual + "w2", {hidden, form.shared_width}, shared + "down_proj", has_shared);
        add(residual + "w3", {form.shared_width, hidden}, shared + "up_proj", has_shared);
      });
}

}  // namespace

StockLayout llama_moe_v2_layout() {
  return {"MixtralForCausalLM", read_llama_moe_v2_config, {}, llama_moe_v2_tensors};
}

bool is_llama_moe_v2(const json& source) {
  return std::any_of(v2_keys().begin(), v2_keys().end(), [&](const std::string& key) { return source.contains(key); });
}

}  // namespace moe
