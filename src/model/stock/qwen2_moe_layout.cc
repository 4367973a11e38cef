#include "model/stock/qwen2_moe_layout.h"

#include "common/error.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr char kQwen2MoeArchitecture[] = "Qwen2MoeForCausalLM";
/// sigmoid(gate . x) is exactly 0.5 in fp32 for any x that occurs, and not by way of 0/0.
constexpr double kEpsilonGate = 1e-20;
constexpr double kSharedFactor = 2;

/// A width for each layer: 0 in those of `mlp_only_layers`, and in all but every `decoder_sparse_step`-th.
void set_mixtures(const JsonFields& fields, int64_t expert_width, int64_t shared_width, ModelConfig& config) {
  const int64_t step = fields.integer_or("decoder_sparse_step", 1);
  config.moe->expert_widths.assign(config.num_layers, 0);
  for (int64_t layer = step - 1; layer < config.num_layers; layer += step) {
    config.moe->expert_widths[layer] = expert_width;
  }
  for (const int64_t layer : fields.token_ids("mlp_only_layers")) {
    // One that the model has not says nothing.
    if (layer >= 0 && layer < config.num_layers) config.moe->expert_widths[layer] = 0;
  }
  if (config.moe->mixture_layers().empty()) {
    throw InvalidArgument(
        concat(fields.where(),
               ": decoder_sparse_step and mlp_only_layers leave no layer with experts; write it as the "
               "dense model that it is"));
  }
  for (const int64_t layer : config.moe->mixture_layers()) config.moe->shared_widths[layer] = shared_width;
  if (shared_width > 0) config.moe->shared_gate = "sigmoid";
}

void refuse_unsupported(const JsonFields& fields) {
  // The base that has no biases knows no windows.
  if (!fields.boolean_or("qkv_bias", true) && fields.boolean_or("use_sliding_window", false)) {
    fields.fail("use_sliding_window", "false where qkv_bias is false");
  }
}

void read_qwen2_moe_config(const json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  refuse_unsupported(fields);
  json defaults = {{"num_key_value_heads", 16}, {"max_position_embeddings", 32768}, {"rms_norm_eps", 1e-6}};
  // Of the dense layers, if there are any.
  if (!fields.has("intermediate_size")) defaults["intermediate_size"] = 5632;
  // Without the biases it is a LLaMA.
  read_dense_base(source, where, fields.boolean_or("qkv_bias", true) ? "qwen2" : "llama",
                  {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
                   "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "qkv_bias"},
                  defaults, config);
  config.moe = read_stock_moe(fields, config, "num_experts", 60, "num_experts_per_tok", 4);
  if (!fields.boolean_or("norm_topk_prob", false)) config.moe->topk_norm = "raw";
  set_mixtures(fields, fields.integer_or("moe_intermediate_size", 1408),
               fields.integer_or("shared_expert_intermediate_size", 5632, 0), config);
}

json write_qwen2_moe_config(const ModelConfig& config, const StockForm& form) {
  json written = stock_decoder_config(config, form, "qwen2_moe", kQwen2MoeArchitecture);
  written["decoder_sparse_step"] = 1;
  written["intermediate_size"] = config.intermediate_size;
  written["max_window_layers"] = config.num_layers;
  written["mlp_only_layers"] = config.moe->dense_layers();
  written["moe_intermediate_size"] = form.expert_width;
  written["norm_topk_prob"] = config.moe->topk_norm != "raw";
  written["num_experts"] = config.moe->num_experts;
  written["num_experts_per_tok"] = config.moe->top_k;
  written["qkv_bias"] = true;
  written["shared_expert_intermediate_size"] = form.shared_width;
  written["sliding_window"] = 4096;
  written["use_sliding_window"] = false;
  return written;
}

std::vector<PiecedTensor> qwen2_moe_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  const int64_t hidden = config.hidden_size;
  return stock_decoder_tensors(
      config, form, {.qkv = form.qkv_bias},
      [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string mlp = prefix + "mlp.";
        const auto add_expert = [&](const std::string& name, int64_t width, double down_factor, bool is_dummy) {
          all.push_back({name + "gate_proj.weight", {width, hidden}, {{name + "gate_proj.weight"}}});
          all.push_back({name + "up_proj.weight", {width, hidden}, {{name + "up_proj.weight"}}});
          all.push_back(
              {name + "down_proj.weight", {hidden, width}, {{name + "down_proj.weight", -1, 0, down_factor}}});
          for (size_t part = 1; is_dummy && part <= 3; ++part) all[all.size() - part].pieces.clear();
        };
        if (!moe.is_mixture(layer)) {
          add_expert(mlp, config.intermediate_size, 1, false);
          return;
        }
        all.push_back({mlp + "gate.weight", {moe.num_experts, hidden}, {{mlp + "router.weight"}}});
        for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
          add_expert(concat(mlp, "experts.", expert, "."), form.expert_width, moe.output_scale[layer], false);
        }
        if (form.shared_width == 0) return;
        const std::string gate = mlp + "shared_expert_gate.weight";
        const bool has_gate = moe.has_shared_gate(layer);
        add_expert(mlp + "shared_expert.", form.shared_width, has_gate ? moe.shared_gate_scale : kSharedFactor,
                   moe.shared_widths[layer] == 0);
        all.push_back({gate, {1, hidden}, {}, kEpsilonGate});
        if (has_gate) all.back().pieces.push_back({gate});
      });
}

}  // namespace

StockLayout qwen2_moe_layout() {
  return {kQwen2MoeArchitecture, read_qwen2_moe_config, write_qwen2_moe_config, qwen2_moe_tensors};
}

}  // namespace moe
