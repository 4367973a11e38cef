#include "model/stock/llama_moe_layout.h"

#include "common/error.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

/// What the key holds, or what its absence means, must be what we can compute.
void require_text(const JsonFields& fields, const char* key, const char* absent, const char* wanted,
                  const char* reason) {
  const std::string value = fields.text_or(key, absent);
  if (value == wanted) return;
  throw InvalidArgument(
      concat(fields.where(), ": `", key, "` is \"", excerpt(value), "\"; expected \"", wanted, "\": ", reason));
}

constexpr double kNoiseEpsilon = 0.01;

std::string gate_of(const JsonFields& fields) {
  return fields.text_or("gate_network", "mlp");
}

void refuse_other_routers(const JsonFields& fields) {
  require_text(fields, "gate_type", "TopKBalancedNoisyGate", "TopKBalancedNoisyGate",
               "only this gate chooses and weighs as our router does");
  if (const std::string gate = gate_of(fields); gate != "mlp" && gate != "linear")
    fields.fail("gate_network", "\"mlp\" or \"linear\"");
  if (fields.number_or("gate_noise_epsilon", kNoiseEpsilon) != kNoiseEpsilon)
    fields.fail("gate_noise_epsilon", concat(kNoiseEpsilon, ": the least width of our noise"));
  require_text(fields, "calculator_type", "UniversalCalculator", "UniversalCalculator",
               "a calculator that drops tokens is not supported");
  if (!fields.boolean_or("gate_use_softmax", true))
    fields.fail("gate_use_softmax", "true: logits as weights are not supported");
  if (fields.boolean_or("add_weight_norm", false))
    fields.fail("add_weight_norm", "false: a learned factor of an expert's output is not supported");
}

/// A width for all, or a list of the experts' for each layer.
void read_sizes(const JsonFields& fields, const ModelConfig& config, MoeConfig& moe) {
  constexpr char kKey[] = "size_experts";
  moe.expert_widths.assign(config.num_layers, 0);
  if (!fields.has(kKey)) {
    if (config.intermediate_size % moe.num_experts != 0) {
      throw InvalidArgument(concat(fields.where(), ": `num_experts` ", moe.num_experts,
                                   " does not divide `intermediate_size` ", config.intermediate_size,
                                   ", and `size_experts` is missing"));
    }
    moe.expert_widths.assign(config.num_layers, config.intermediate_size / moe.num_experts);
    return;
  }
  const std::vector<std::vector<int64_t>> sizes = fields.integers_or_lists(kKey, config.num_layers, 1);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (static_cast<int64_t>(sizes[layer].size()) != moe.num_experts)
      fields.fail(kKey, concat("one width for each of ", moe.num_experts, " experts of layer ", layer));
    moe.set_expert_widths(layer, sizes[layer]);
  }
}

void read_llama_moe_config(const json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  if (fields.text("model_type") == kLlamaMoeResidual) {
    fields.fail("model_type",
                "\"llama_moe\": shared experts beside the others (mlp.residual_block and mlp.moe_layer, Sharing-Inter) "
                "are not read; ffn.method sharing_inter makes such a model of the dense one");
  }
  refuse_other_routers(fields);
  read_dense_base(source, where, "llama",
                  {"num_experts", "num_selects", "size_experts", "gate_type", "gate_network", "gate_use_softmax",
                   "gate_use_balance", "gate_balance_loss_weight", "gate_add_noise", "gate_noise_epsilon",
                   "calculator_type", "multiply_gate_scores", "score_scale_factor", "add_weight_norm", "drop_tokens",
                   "dropped_padding", "capacity_factor", "auto_map"},
                  json::object(), config);
  config.moe = read_stock_moe(fields, config, "num_experts", 16, "num_selects", 4);
  MoeConfig& moe = *config.moe;
  read_sizes(fields, config, moe);
  moe.router = gate_of(fields);
  // Where the key is absent there is noise.
  if (fields.boolean_or("gate_add_noise", true)) moe.router_noise = "learned";
  if (fields.boolean_or("multiply_gate_scores", true)) {
    moe.output_scale = read_stock_scales(fields, "score_scale_factor", 1, config.num_layers);
  } else {
    // Weights of 1, to which no scale applies.
    moe.topk_norm = "straight_through";
  }
}

std::vector<PiecedTensor> llama_moe_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  const int64_t hidden = config.hidden_size;
  const std::vector<int64_t> of_inputs{moe.num_experts, hidden};
  return stock_decoder_tensors(
      config, form, {}, [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string mlp = prefix + "mlp.", stored = mlp + "calculator.experts.";
        const std::string gate = mlp + "gate.", router = mlp + "router.";
        if (moe.router == "mlp") {
          all.push_back({gate + "gate_network.0.weight", of_inputs, {{router + "weight"}}});
          all.push_back(
              {gate + "gate_network.2.weight", {moe.num_experts, moe.num_experts}, {{router + "out.weight"}}});
        } else {
          all.push_back({gate + "gate_network.weight", of_inputs, {{router + "weight"}}});
        }
        if (moe.router_noise == "learned")
          all.push_back({gate + "weight_noise.weight", of_inputs, {{router + "noise.weight"}}});
        for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
          const std::string from = concat(mlp, "experts.", expert, ".");
          const int64_t width = moe.expert_width(layer, expert);
          all.push_back({concat(stored, "weight_gate.", expert), {width, hidden}, {{from + "gate_proj.weight"}}});
          all.push_back({concat(stored, "weight_up.", expert), {width, hidden}, {{from + "up_proj.weight"}}});
          all.push_back({concat(stored, "weight_down.", expert), {hidden, width}, {{from + "down_proj.weight"}}});
        }
      });
}

}  // namespace

StockLayout llama_moe_layout() {
  return {"LlamaMoEForCausalLM", read_llama_moe_config, {}, llama_moe_tensors};
}

}  // namespace moe
