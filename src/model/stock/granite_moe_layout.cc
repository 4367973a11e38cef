#include "model/stock/granite_moe_layout.h"

#include <cmath>

#include "common/error.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

std::string architecture_of(const std::string& model_type) {
  return model_type == "granitemoe" ? "GraniteMoeForCausalLM" : "GraniteMoeSharedForCausalLM";
}

double attention_scale(const ModelConfig& config) {
  return 1 / std::sqrt(static_cast<double>(config.head_dim));
}

/// On q, k, v and o or on none: a model without one on the output has zeros there.
bool has_attention_biases(const ModelConfig& config) {
  return config.qkv_bias || config.o_bias;
}

/// The multipliers of the architecture must do nothing that a LLaMA does not.
void check_multipliers(const JsonFields& fields, const ModelConfig& config) {
  for (const char* key : {"embedding_multiplier", "logits_scaling", "residual_multiplier"}) {
    if (fields.number_or(key, 1) != 1) fields.fail(key, "1: this multiplier is not supported");
  }
  const double scale = attention_scale(config), given = fields.number_or("attention_multiplier", 1);
  if (std::abs(given - scale) > 1e-7 * scale) {
    throw InvalidArgument(concat(fields.where(), ": `attention_multiplier` is ", given,
                                 "; only head_dim^-0.5 = ", scale, " is supported"));
  }
}

void read_granite_config(const std::string& model_type, const json& source, const std::string& where,
                         ModelConfig& config) {
  const JsonFields fields(source, where);
  read_dense_base(source, where, "llama",
                  {"num_local_experts", "num_experts_per_tok", "shared_intermediate_size", "embedding_multiplier",
                   "logits_scaling", "residual_multiplier", "attention_multiplier"},
                  {{"attention_bias", fields.boolean_or("attention_bias", false)}}, config);
  check_multipliers(fields, config);
  config.moe = read_stock_moe(fields, config, "num_local_experts", 8, "num_experts_per_tok", 2);
  config.moe->expert_widths.assign(config.num_layers, config.intermediate_size);
  if (model_type == "granitemoeshared") {
    config.moe->shared_widths.assign(config.num_layers, fields.integer_or("shared_intermediate_size", 0, 0));
  }
}

json write_granite_config(const std::string& model_type, const ModelConfig& config, const StockForm& form) {
  json written = stock_decoder_config(config, form, model_type, architecture_of(model_type));
  written["attention_bias"] = has_attention_biases(config);
  written["attention_multiplier"] = attention_scale(config);
  written["embedding_multiplier"] = 1.0;
  written["intermediate_size"] = form.expert_width;
  written["logits_scaling"] = 1.0;
  written["num_experts_per_tok"] = config.moe->top_k;
  written["num_local_experts"] = config.moe->num_experts;
  written["residual_multiplier"] = 1.0;
  if (model_type == "granitemoeshared") written["shared_intermediate_size"] = form.shared_width;
  return written;
}

std::vector<PiecedTensor> granite_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  const int64_t experts = moe.num_experts, hidden = config.hidden_size, width = form.expert_width,
                shared_width = form.shared_width;
  return stock_decoder_tensors(
      config, form, {.qkv = has_attention_biases(config), .o = has_attention_biases(config)},
      [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string stock = prefix + "block_sparse_moe.", native = prefix + "mlp.";
        all.push_back({stock + "router.layer.weight",
                       {experts, hidden},
                       {{native + "router.weight", -1, 0, form.router_factor}}});
        PiecedTensor input{stock + "input_linear.weight", {experts, 2 * width, hidden}, {}};
        PiecedTensor output{stock + "output_linear.weight", {experts, hidden, width}, {}};
        for (int64_t expert = 0; expert < experts; ++expert) {
          const std::string from = concat(native, "experts.", expert, ".");
          input.pieces.push_back({from + "gate_proj.weight", expert});
          input.pieces.push_back({from + "up_proj.weight", expert, width});
          output.pieces.push_back({from + "down_proj.weight", expert, 0, moe.output_scale[layer] * form.routed_factor});
        }
        all.push_back(std::move(input));
        all.push_back(std::move(output));
        if (shared_width == 0) return;
        PiecedTensor shared_input{prefix + "shared_mlp.input_linear.weight", {2 * shared_width, hidden}, {}};
        PiecedTensor shared_output{prefix + "shared_mlp.output_linear.weight", {hidden, shared_width}, {}};
        if (moe.shared_widths[layer] > 0) {
          shared_input.pieces = {{native + "shared_expert.gate_proj.weight"},
                                 {native + "shared_expert.up_proj.weight", -1, shared_width}};
          shared_output.pieces = {{native + "shared_expert.down_proj.weight"}};
        }
        all.push_back(std::move(shared_input));
        all.push_back(std::move(shared_output));
      });
}

}  // namespace

StockLayout granite_moe_layout(const std::string& model_type) {
  return {architecture_of(model_type),
          [model_type](const json& source, const std::string& where, ModelConfig& config) {
            read_granite_config(model_type, source, where, config);
          },
          [model_type](const ModelConfig& config, const StockForm& form) {
            return write_granite_config(model_type, config, form);
          },
          granite_tensors};
}

}  // namespace moe
