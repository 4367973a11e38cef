#include "model/model_config.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "common/error.h"
#include "common/python_json.h"
#include "model/config_fields.h"
#include "model/json_fields.h"
#include "model/model_families.h"
#include "model/stock/stock_layouts.h"
#include "model/tensor_specs.h"

namespace moe {
namespace {

constexpr char kNativeType[] = "dense2moe";
constexpr char kNativeArchitecture[] = "Dense2MoeForCausalLM";

std::vector<int64_t> layers_that(const std::vector<int64_t>& expert_widths, bool are_mixtures) {
  std::vector<int64_t> layers;
  for (size_t layer = 0; layer < expert_widths.size(); ++layer) {
    if ((expert_widths[layer] > 0) == are_mixtures) layers.push_back(static_cast<int64_t>(layer));
  }
  return layers;
}

void read_expert_widths(const JsonFields& fields, int64_t layers, MoeConfig& moe) {
  constexpr char kKey[] = "expert_widths";
  const std::vector<std::vector<int64_t>> widths = fields.integers_or_lists(kKey, layers, 0);
  moe.expert_widths.assign(layers, 0);
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (!fields.required(kKey)[layer].is_array()) {
      moe.expert_widths[layer] = widths[layer].front();
      continue;
    }
    if (*std::min_element(widths[layer].begin(), widths[layer].end()) < 1)
      fields.fail(kKey, concat("at least 1 in the list of layer ", layer, "; a dense layer has 0 and no list"));
    if (static_cast<int64_t>(widths[layer].size()) != moe.num_experts)
      fields.fail(kKey, concat("in a list of layer ", layer, " one width for each of ", moe.num_experts, " experts"));
    moe.set_expert_widths(layer, widths[layer]);
  }
  if (moe.num_experts == 0 && !moe.mixture_layers().empty()) fields.fail(kKey, "0 in every layer: num_experts is 0");
  if (moe.num_experts > 0 && moe.mixture_layers().empty())
    fields.fail(kKey, "at least 1 in some layer; a model of dense layers has no `moe`");
}

void read_shared_widths(const JsonFields& fields, int64_t layers, MoeConfig& moe) {
  constexpr char kKey[] = "shared_widths";
  moe.shared_widths = fields.has(kKey) ? fields.integers(kKey, layers, 0) : std::vector<int64_t>(layers, 0);
  for (const int64_t layer : moe.dense_layers()) {
    if (moe.shared_widths[layer] > 0) fields.fail(kKey, concat("0 in layer ", layer, ", which has no experts"));
  }
}

/// After the shared widths.
void read_shared_gate(const JsonFields& fields, MoeConfig& moe) {
  constexpr char kGate[] = "shared_gate", kRows[] = "shared_gate_rows";
  moe.shared_gate = fields.text_or(kGate, "none");
  if (moe.shared_gate == "none") return;
  const bool is_softmax = moe.shared_gate == "softmax";
  if (!is_softmax && moe.shared_gate != "sigmoid") fields.fail(kGate, "\"none\", \"softmax\" or \"sigmoid\"");
  if (std::all_of(moe.shared_widths.begin(), moe.shared_widths.end(), [](int64_t width) { return width == 0; }))
    fields.fail(kGate, "\"none\": `shared_widths` is 0 in every layer");
  moe.shared_gate_rows = fields.integer(kRows, is_softmax ? 2 : 1);
  if (!is_softmax && moe.shared_gate_rows != 1) fields.fail(kRows, "1 with `shared_gate` \"sigmoid\"");
  for (const int64_t width : moe.shared_widths) {
    if (width % moe.shared_gate_rows != 0)
      fields.fail(kRows, concat("a divisor of every shared width; one is ", width));
  }
  moe.shared_gate_scale = fields.positive("shared_gate_scale");
}

MoeConfig read_moe(const JsonFields& fields, const ModelConfig& config) {
  MoeConfig moe;
  moe.base_model_type = fields.text("base_model_type");
  if (fields.has("attention")) {
    moe.attention =
        read_attention_experts(JsonFields(fields.required("attention"), fields.where() + ".attention"), config);
  }
  // Without any in its FFNs a model may have experts in its attention alone.
  moe.num_experts = fields.integer("num_experts", moe.attention ? 0 : 1);
  check_num_experts(fields, "num_experts", moe.num_experts, config.num_layers);
  moe.top_k = fields.integer("top_k", moe.num_experts == 0 ? 0 : 1);
  if (moe.top_k > moe.num_experts) fields.fail("top_k", concat("at most num_experts ", moe.num_experts));
  read_expert_widths(fields, config.num_layers, moe);
  read_shared_widths(fields, config.num_layers, moe);
  read_shared_gate(fields, moe);
  moe.output_scale = fields.numbers("output_scale", config.num_layers);
  moe.score = read_router_score(fields);
  moe.topk_norm = read_topk_norm(fields);
  moe.has_selection_bias = fields.boolean_or("selection_bias", false);
  moe.router = fields.text_or("router", "linear");
  if (moe.router != "linear" && moe.router != "mlp" && moe.router != "product")
    fields.fail("router", "\"linear\", \"mlp\" or \"product\"");
  moe.router_noise = fields.text_or("router_noise", "none");
  if (moe.router_noise != "none" && moe.router_noise != "learned" && moe.router_noise != "gumbel")
    fields.fail("router_noise", "\"none\", \"learned\" or \"gumbel\"");
  moe.has_output_bias = fields.boolean_or("output_bias", false);
  if (fields.has("conversion")) moe.conversion = fields.required("conversion");
  return moe;
}

void read_special_tokens(const JsonFields& fields, ModelConfig& config) {
  // Below 0 is none: LLaMA files have -1 so.
  const int64_t bos = fields.integer_or("bos_token_id", -1, std::numeric_limits<int64_t>::min());
  if (bos >= 0) config.bos_token_id = bos;
  config.eos_token_ids = fields.token_ids("eos_token_id");
}

}  // namespace

std::vector<int64_t> MoeConfig::mixture_layers() const {
  return layers_that(expert_widths, /*are_mixtures=*/true);
}

std::vector<int64_t> MoeConfig::dense_layers() const {
  return layers_that(expert_widths, /*are_mixtures=*/false);
}

int64_t MoeConfig::expert_width(int64_t layer, int64_t expert) const {
  const auto uneven = uneven_widths.find(layer);
  return uneven == uneven_widths.end() ? expert_widths.at(layer) : uneven->second.at(expert);
}

void MoeConfig::set_expert_widths(int64_t layer, const std::vector<int64_t>& widths) {
  const auto [least, widest] = std::minmax_element(widths.begin(), widths.end());
  expert_widths.at(layer) = *widest;
  uneven_widths.erase(layer);
  if (*least != *widest) uneven_widths[layer] = widths;
}

nlohmann::json MoeConfig::expert_widths_json() const {
  nlohmann::json all = expert_widths;
  for (const auto& [layer, widths] : uneven_widths) all[layer] = widths;
  return all;
}

ModelConfig parse_model_config(const std::string& text, const std::string& where) {
  const nlohmann::json source = parse_python_json(text, where);
  const JsonFields fields(source, where);
  ModelConfig config;
  const std::string type = fields.text("model_type");
  if (!stock_layout_of(source).empty()) {
    config = read_stock_config(source, where);
    read_special_tokens(fields, config);
    return config;
  }
  const bool is_moe = type == kNativeType;
  config.model_type = is_moe ? JsonFields(fields.required("moe"), where + ": moe").text("base_model_type") : type;
  if (!model_families().contains(config.model_type)) {
    throw InvalidArgument(concat(where, ": `", is_moe ? "moe.base_model_type" : "model_type", "` is \"",
                                 excerpt(config.model_type), "\"; known families: ", model_families().known()));
  }
  model_families().at(config.model_type).read_config(source, where, config);
  read_special_tokens(fields, config);
  config.source = source;
  if (is_moe) config.moe = read_moe(JsonFields(fields.required("moe"), where + ": moe"), config);
  return config;
}

nlohmann::json to_json(const ModelConfig& config) {
  nlohmann::json json = config.source;
  if (!config.moe) return json;
  const MoeConfig& moe = *config.moe;
  json["model_type"] = kNativeType;
  json["architectures"] = {kNativeArchitecture};
  json["moe"] = {{"base_model_type", moe.base_model_type},
                 {"num_experts", moe.num_experts},
                 {"top_k", moe.top_k},
                 {"expert_widths", moe.expert_widths_json()},
                 {"shared_widths", moe.shared_widths},
                 {"output_scale", moe.output_scale},
                 {"score", moe.score},
                 {"topk_norm", moe.topk_norm},
                 {"router", moe.router},
                 {"conversion", moe.conversion}};
  if (moe.has_selection_bias) json["moe"]["selection_bias"] = true;
  if (moe.router_noise != "none") json["moe"]["router_noise"] = moe.router_noise;
  if (moe.has_output_bias) json["moe"]["output_bias"] = true;
  if (moe.shared_gate != "none") {
    json["moe"].update({{"shared_gate", moe.shared_gate},
                        {"shared_gate_rows", moe.shared_gate_rows},
                        {"shared_gate_scale", moe.shared_gate_scale}});
  }
  if (moe.attention) json["moe"]["attention"] = to_json(*moe.attention);
  return json;
}

ParameterCount count_parameters(const ModelConfig& config) {
  ParameterCount count;
  int64_t of_ffn = 0, of_attention = 0;  // in experts, without what a token always uses
  for (const TensorSpec& spec : logical_tensor_specs(config)) {
    const int64_t size = std::accumulate(spec.shape.begin(), spec.shape.end(), int64_t{1}, std::multiplies<>());
    count.total += size;
    // What noise is made of is there for training alone.
    if (spec.id.part == TensorPart::kRouterNoise) continue;
    if (!spec.id.is_routed()) {
      count.active += size;
    } else if (!spec.id.is_of_attention()) {
      of_ffn += size;
    } else {
      (spec.id.expert < config.moe->attention->always_on ? count.active : of_attention) += size;
    }
  }
  // Where experts differ, a token uses those of average width. What has no experts is in use whole.
  if (of_ffn > 0) count.active += of_ffn * config.moe->top_k / config.moe->num_experts;
  if (of_attention > 0)
    count.active += of_attention * config.moe->attention->top_k / config.moe->attention->num_routed();
  return count;
}

}  // namespace moe
