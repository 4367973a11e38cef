#include "export/stock_reasons.h"

#include <bit>

#include "common/error.h"
#include "export/stock_traits.h"
#include "model/stock/glm4_moe_layout.h"

namespace moe {
namespace {

using Reasons = std::vector<std::string>;

/// What no stock mixture has.
void add_common_reasons(const ModelConfig& config, Reasons& reasons) {
  if (config.norm != NormKind::kRms) reasons.emplace_back("LayerNorm: stock mixtures have RMSNorm");
  if (config.is_parallel)
    reasons.emplace_back("attention and FFN run in parallel: in stock mixtures one follows the other");
  if (!config.is_gated) reasons.emplace_back("its experts have no gate: those of stock mixtures are SwiGLU");
  if (config.mlp_bias) reasons.emplace_back("its experts have biases");
  if (config.head_bias) reasons.emplace_back("its head has a bias");
  if (config.rope.rotary_dims != config.head_dim)
    reasons.push_back(concat("RoPE turns ", config.rope.rotary_dims, " of ", config.head_dim, " elements of a head"));
  if (config.attention_window) reasons.push_back(concat("attention sees ", *config.attention_window, " tokens only"));
  const MoeConfig& moe = *config.moe;
  if (moe.attention) {
    reasons.push_back(concat("attention of ", moe.attention->num_experts,
                             " experts: that of stock mixtures sees all tokens in every head"));
  }
  if (moe.num_experts == 0) return;
  if (moe.router != "linear")
    reasons.push_back(concat("router ", moe.router, ": those of stock mixtures are one linear layer"));
  if (moe.has_output_bias) {
    reasons.emplace_back(
        "its mixtures add a bias to each token's output (scale.alignment mean_variance), which those of stock "
        "architectures do not: convert with alignment variance, or keep it native");
  }
  if (moe.num_experts < 2) reasons.push_back(concat(moe.num_experts, " expert: stock mixtures have at least 2"));
  if (chosen_weights(moe) == ChosenWeights::kGains)
    reasons.emplace_back("weights of 1 + gain * score (topk_norm one_plus): stock routers have no gains");
}

void add_score_reasons(const std::string& layout, const MoeConfig& moe, Reasons& reasons) {
  if (has_sigmoid_routers(layout)) {
    if (moe.score != "sigmoid")
      reasons.push_back(concat("its router has ", moe.score, " scores: those of ", layout, " are sigmoids"));
    return;
  }
  if (needs_sigmoids(moe))
    reasons.push_back(concat("its router has sigmoid scores: those of ", layout, " are softmaxes"));
  if (moe.has_selection_bias) {
    reasons.push_back(concat(
        "its routers have selection biases (train.balance selection_bias or quantile), which ", layout,
        " has not, and of stock routers only those with sigmoid scores (glm4_moe, solar_open): train without them "
        "(balance: auxiliary), convert with router.score sigmoid, or keep it native"));
  }
}

/// Of weights that are 1 for each of several experts.
void add_reasons_of_ones(const std::string& layout, const MoeConfig& moe, const std::string& dtype, Reasons& reasons) {
  const std::string weights =
      concat("weights of 1 for each of ", moe.top_k, " experts (topk_norm ", moe.topk_norm, ")");
  if (layout != kGranite) {
    reasons.push_back(concat(weights, ": routers of ", layout,
                             has_sigmoid_routers(layout)
                                 ? " give sigmoids, or sigmoids that sum to 1"
                                 : " choose by probabilities, which sum to 1 or stay as they are"));
    return;
  }
  if (dtype == "F16")
    reasons.push_back(concat(weights, " need routers times 2^-40, which is 0 in float16: choose dtype float32"));
  if (dtype == "BF16" && !std::has_single_bit(static_cast<uint64_t>(moe.top_k))) {
    reasons.push_back(concat(weights, " stand as weights of 1/", moe.top_k, " and down projections times ", moe.top_k,
                             ", which bfloat16 rounds where that is no power of two: choose dtype float32"));
  }
}

void add_weight_reasons(const std::string& layout, const MoeConfig& moe, const std::string& dtype, Reasons& reasons) {
  const ChosenWeights weights = chosen_weights(moe);
  if (weights == ChosenWeights::kOnes) add_reasons_of_ones(layout, moe, dtype, reasons);
  if (weights == ChosenWeights::kScores && (layout == kMixtral || layout == kGranite))
    reasons.push_back(concat(layout, " renormalises the weights of the chosen experts (topk_norm is raw)"));
}

void add_dense_layer_reasons(const std::string& layout, const ModelConfig& config, Reasons& reasons) {
  const std::vector<int64_t> dense = config.moe->dense_layers();
  if (dense.empty() || layout == kQwen) return;
  const std::string some = concat(dense.size(), " of its ", config.num_layers, " layers are dense, the first of them ");
  if (layout != kGlm) {
    reasons.push_back(concat(some, "layer ", dense.front(), ": every layer of ", layout, " is a mixture"));
  } else if (first_dense_layers(*config.moe) < 0) {
    reasons.push_back(concat(some, "layer ", dense.front(), ", the last layer ", dense.back(),
                             ": those of glm4_moe stand before all mixtures"));
  }
}

void add_attention_reasons(const std::string& layout, const ModelConfig& config, Reasons& reasons) {
  if (layout == kMixtral && (config.qkv_bias || config.o_bias))
    reasons.emplace_back("mixtral's attention has no biases");
  if ((layout == kQwen || has_sigmoid_routers(layout)) && config.o_bias)
    reasons.push_back(concat(layout, " has no bias on the attention's output"));
  const bool derives_heads = layout == kGranite || layout == kQwen;
  if (derives_heads && config.num_heads * config.head_dim != config.hidden_size) {
    reasons.push_back(concat("clients of ", layout, " take hidden_size / heads for the size of a head: ",
                             config.num_heads, " * ", config.head_dim, " is not ", config.hidden_size));
  }
}

/// As safetensors names it.
std::string written_dtype(const ModelDirectory& model, const v1::ExportSpec& spec) {
  if (spec.dtype() == "source") return model.stored_dtype();
  return spec.dtype() == "bfloat16" ? "BF16" : "F32";
}

}  // namespace

std::vector<std::string> stock_reasons_against(const std::string& layout, const ModelDirectory& model,
                                               const v1::ExportSpec& spec) {
  const ModelConfig& config = model.config();
  if (!config.moe) return {"it is a dense model, which stock clients read as it is"};
  Reasons reasons;
  add_common_reasons(config, reasons);
  if (config.moe->num_experts == 0) return reasons;  // of attention alone
  const std::string dtype = written_dtype(model, spec);
  add_score_reasons(layout, *config.moe, reasons);
  add_weight_reasons(layout, *config.moe, dtype, reasons);
  add_dense_layer_reasons(layout, config, reasons);
  if (layout == kMixtral && has_shared_expert(config)) reasons.emplace_back("mixtral has no shared expert");
  add_attention_reasons(layout, config, reasons);
  if (layout == kQwen && dtype == "F16") {
    reasons.emplace_back(
        "its weights are float16, in which qwen2_moe's gate of 1e-20 is 0: choose dtype float32 or bfloat16");
  }
  return reasons;
}

}  // namespace moe
