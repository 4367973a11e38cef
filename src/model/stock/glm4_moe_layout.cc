#include "model/stock/glm4_moe_layout.h"

#include <algorithm>
#include <optional>

#include "common/error.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr char kGlm4Moe[] = "glm4_moe";

std::string glm4_architecture(const std::string& model_type) {
  return model_type == kGlm4Moe ? "Glm4MoeForCausalLM" : "SolarOpenForCausalLM";
}

/// The output scale of every mixture, which stands in the config; absent where they differ: then each is folded into
/// the down projections of its layer.
std::optional<double> common_scale(const MoeConfig& moe) {
  const std::vector<int64_t> layers = moe.mixture_layers();
  const double first = moe.output_scale[layers.front()];
  const auto is_first = [&](int64_t layer) { return moe.output_scale[layer] == first; };
  return std::all_of(layers.begin(), layers.end(), is_first) ? std::optional(first) : std::nullopt;
}

void refuse_other_attention(const std::string& model_type, const JsonFields& fields) {
  for (const char* key : {"n_group", "topk_group"}) {
    if (fields.integer_or(key, 1) != 1) fields.fail(key, "1: groups of experts are not supported");
  }
  if (fields.boolean_or("use_qk_norm", false))
    fields.fail("use_qk_norm", "false: norms of queries and keys are not supported");
  const bool says_rotary = fields.has("partial_rotary_factor") ||
                           (fields.has("rope_parameters") && fields.required("rope_parameters").is_object() &&
                            fields.required("rope_parameters").contains("partial_rotary_factor"));
  if (model_type == kGlm4Moe && !says_rotary) {
    throw InvalidArgument(concat(fields.where(),
                                 ": without `partial_rotary_factor` a glm4_moe turns half of each head; only 1 is "
                                 "supported"));
  }
}

/// Neurons of so many experts of one width, read from `key`.
int64_t width_of(const JsonFields& fields, const char* key, int64_t experts, int64_t width) {
  if (experts > kLargestSize / width)
    fields.fail(key, concat("at most ", kLargestSize / width, " of ", width, " neurons"));
  return experts * width;
}

void read_glm4_moe_config(const std::string& model_type, const json& source, const std::string& where,
                          ModelConfig& config) {
  const JsonFields fields(source, where);
  refuse_other_attention(model_type, fields);
  const bool is_glm = model_type == kGlm4Moe;
  const int64_t width = fields.integer_or("moe_intermediate_size", is_glm ? 1408 : 1280);
  const int64_t shared = width_of(fields, "n_shared_experts", fields.integer_or("n_shared_experts", 1, 0), width);
  const json defaults = {{"num_key_value_heads", 8},
                         {"head_dim", is_glm ? json(nullptr) : json(128)},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", is_glm ? 1e4 : 1e6},
                         {"max_position_embeddings", 131072},
                         // Of dense layers, which a solar_open has not.
                         {"intermediate_size", 10944}};
  read_dense_base(source, where, fields.boolean_or("attention_bias", false) ? "qwen2" : "llama",
                  {"first_k_dense_replace", "moe_intermediate_size", "n_group", "n_routed_experts", "n_shared_experts",
                   "norm_topk_prob", "num_experts_per_tok", "num_mtp_layers", "num_nextn_predict_layers",
                   "routed_scaling_factor", "topk_group", "use_qk_norm"},
                  defaults, config);
  config.moe = read_stock_moe(fields, config, "n_routed_experts", 128, "num_experts_per_tok", 8);
  MoeConfig& moe = *config.moe;
  moe.score = "sigmoid";
  moe.has_selection_bias = true;
  if (!fields.boolean_or("norm_topk_prob", true)) moe.topk_norm = "raw";
  const int64_t dense = is_glm ? fields.integer_or("first_k_dense_replace", 1, 0) : 0;
  if (dense >= config.num_layers) {
    throw InvalidArgument(concat(where, ": `first_k_dense_replace` is ", dense,
                                 "; expected less than num_hidden_layers ", config.num_layers,
                                 ": no layer has experts; write it as the dense model that it is"));
  }
  moe.expert_widths.assign(config.num_layers, 0);
  for (int64_t layer = dense; layer < config.num_layers; ++layer) {
    moe.expert_widths[layer] = width;
    moe.shared_widths[layer] = shared;
    moe.output_scale[layer] = fields.number_or("routed_scaling_factor", 1);
  }
}

json write_glm4_moe_config(const std::string& model_type, const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  json written = stock_decoder_config(config, form, model_type, glm4_architecture(model_type));
  written["attention_bias"] = config.qkv_bias;
  written["head_dim"] = config.head_dim;
  written["intermediate_size"] = config.intermediate_size;
  written["moe_intermediate_size"] = form.expert_width;
  written["n_group"] = 1;
  written["n_routed_experts"] = moe.num_experts;
  written["n_shared_experts"] = form.shared_width / form.expert_width;
  written["norm_topk_prob"] = moe.topk_norm != "raw";
  written["num_experts_per_tok"] = moe.top_k;
  written["partial_rotary_factor"] = 1.0;
  written["routed_scaling_factor"] = common_scale(moe).value_or(1);
  written["topk_group"] = 1;
  if (model_type == kGlm4Moe) {
    written["first_k_dense_replace"] = first_dense_layers(moe);
    written["num_nextn_predict_layers"] = 0;
    written["use_qk_norm"] = false;
  }
  return written;
}

std::vector<PiecedTensor> glm4_moe_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  const int64_t hidden = config.hidden_size;
  const bool is_folded = !common_scale(moe);
  return stock_decoder_tensors(
      config, form, {.qkv = config.qkv_bias},
      [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string mlp = prefix + "mlp.", router = mlp + "router.";
        const auto add_ffn = [&](const std::string& stored, const std::string& native, int64_t width, double factor) {
          const auto add = [&](const std::string& part, std::vector<int64_t> shape, double times) {
            all.push_back({stored + part, std::move(shape), {}});
            if (!native.empty()) all.back().pieces.push_back({native + part, -1, 0, times});
          };
          add("gate_proj.weight", {width, hidden}, 1);
          add("up_proj.weight", {width, hidden}, 1);
          add("down_proj.weight", {hidden, width}, factor);
        };
        if (!moe.is_mixture(layer)) {
          add_ffn(mlp, mlp, config.intermediate_size, 1);
          return;
        }
        all.push_back({mlp + "gate.weight", {moe.num_experts, hidden}, {{router + "weight"}}});
        all.push_back({mlp + "gate.e_score_correction_bias", {moe.num_experts}, {}});
        if (moe.has_selection_bias) all.back().pieces.push_back({router + "selection_bias"});
        for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
          const std::string name = concat(mlp, "experts.", expert, ".");
          add_ffn(name, name, form.expert_width, is_folded ? moe.output_scale[layer] : 1);
        }
        if (form.shared_width == 0) return;
        add_ffn(mlp + "shared_experts.", moe.shared_widths[layer] > 0 ? mlp + "shared_expert." : "", form.shared_width,
                1);
      });
}

}  // namespace

int64_t glm4_shared_width(int64_t shared_width, int64_t expert_width) {
  return std::max<int64_t>(1, (shared_width + expert_width - 1) / expert_width) * expert_width;
}

int64_t first_dense_layers(const MoeConfig& moe) {
  const std::vector<int64_t> dense = moe.dense_layers();
  const auto count = static_cast<int64_t>(dense.size());
  return count == 0 || dense.back() == count - 1 ? count : -1;
}

StockLayout glm4_moe_layout(const std::string& model_type) {
  return {glm4_architecture(model_type),
          [model_type](const json& source, const std::string& where, ModelConfig& config) {
            read_glm4_moe_config(model_type, source, where, config);
          },
          [model_type](const ModelConfig& config, const StockForm& form) {
            return write_glm4_moe_config(model_type, config, form);
          },
          glm4_moe_tensors};
}

}  // namespace moe
