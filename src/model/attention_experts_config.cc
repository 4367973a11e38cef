#include "model/attention_experts_config.h"

#include <algorithm>

#include "common/error.h"
#include "model/config_fields.h"
#include "model/json_fields.h"

namespace moe {
namespace {

void read_heads_of_experts(const JsonFields& fields, const ModelConfig& config, AttentionExperts& attention) {
  if (config.num_heads % attention.num_experts != 0)
    fields.fail("num_experts", concat("a divisor of num_attention_heads ", config.num_heads));
  attention.query_heads = fields.integer("query_heads");
  if (const int64_t heads = config.num_heads / attention.num_experts; attention.query_heads != heads) {
    fields.fail("query_heads",
                concat(heads, ": num_attention_heads ", config.num_heads, " over num_experts ", attention.num_experts));
  }
  attention.kv_heads = fields.integer("kv_heads");
  if (attention.query_heads % attention.kv_heads != 0)
    fields.fail("kv_heads", concat("a divisor of query_heads ", attention.query_heads));
}

void read_expert_layers(const JsonFields& fields, const ModelConfig& config, AttentionExperts& attention) {
  constexpr char kKey[] = "layers";
  attention.layers = fields.integers(kKey, config.num_layers, 0);
  if (*std::max_element(attention.layers.begin(), attention.layers.end()) > 1)
    fields.fail(kKey, "1 (experts) or 0 (dense) for each layer");
  if (attention.expert_layers().empty()) fields.fail(kKey, "1 in some layer; without experts there is no `attention`");
}

}  // namespace

std::vector<int64_t> AttentionExperts::expert_layers() const {
  std::vector<int64_t> numbers;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer] != 0) numbers.push_back(static_cast<int64_t>(layer));
  }
  return numbers;
}

AttentionExperts read_attention_experts(const JsonFields& fields, const ModelConfig& config) {
  if (config.attention_window) {
    throw InvalidArgument(concat(fields.where(), ": the model's attention sees the last ", *config.attention_window,
                                 " tokens, which experts that see some of the tokens would count otherwise; no model "
                                 "with a window has attention experts"));
  }
  AttentionExperts attention;
  attention.num_experts = fields.integer("num_experts");
  check_num_experts(fields, "num_experts", attention.num_experts, config.num_layers);
  attention.always_on = fields.integer_or("always_on", 0, 0);
  if (attention.always_on >= attention.num_experts)
    fields.fail("always_on", concat("less than num_experts ", attention.num_experts));
  attention.top_k = fields.integer("top_k");
  if (attention.top_k > attention.num_routed()) {
    fields.fail("top_k", concat("at most ", attention.num_routed(), ": num_experts ", attention.num_experts,
                                " without the ", attention.always_on, " that are always on"));
  }
  read_heads_of_experts(fields, config, attention);
  read_expert_layers(fields, config, attention);
  attention.output_scale = fields.numbers("output_scale", config.num_layers);
  attention.score = read_router_score(fields);
  attention.topk_norm = read_topk_norm(fields);
  attention.kv_mode = fields.text_or("kv_mode", "routed");
  if (attention.kv_mode != "routed" && attention.kv_mode != "dense") fields.fail("kv_mode", "\"routed\" or \"dense\"");
  attention.has_selection_bias = fields.boolean_or("selection_bias", false);
  return attention;
}

nlohmann::json to_json(const AttentionExperts& attention) {
  nlohmann::json json = {{"num_experts", attention.num_experts},   {"top_k", attention.top_k},
                         {"always_on", attention.always_on},       {"query_heads", attention.query_heads},
                         {"kv_heads", attention.kv_heads},         {"layers", attention.layers},
                         {"output_scale", attention.output_scale}, {"score", attention.score},
                         {"topk_norm", attention.topk_norm},       {"kv_mode", attention.kv_mode}};
  if (attention.has_selection_bias) json["selection_bias"] = true;
  return json;
}

}  // namespace moe
