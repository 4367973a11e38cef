#include "export/stock_reasons.h"

#include <algorithm>
#include <bit>
#include <set>

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

/// In which a tensor of the model is written.
at::ScalarType written_type(const ModelDirectory& model, const v1::ExportSpec& spec, const std::string& tensor) {
  if (spec.dtype() == "source") return model.tensor_type(tensor);
  return spec.dtype() == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

/// Whether a layer's router, or the stack of its experts' down projections (of the type of the first), is written in
/// one of these types.
bool is_written_in(const std::set<at::ScalarType>& types, TensorPart part, const ModelDirectory& model,
                   const v1::ExportSpec& spec) {
  const std::vector<int64_t> layers = model.config().moe->mixture_layers();
  return std::any_of(layers.begin(), layers.end(), [&](int64_t layer) {
    const TensorId id{part, layer, part == TensorPart::kDown ? 0 : kNoExpert};
    return types.contains(written_type(model, spec, tensor_name(model.config(), id)));
  });
}

/// Of weights that are 1 for each of several experts.
void add_reasons_of_ones(const std::string& layout, const ModelDirectory& model, const v1::ExportSpec& spec,
                         Reasons& reasons) {
  const MoeConfig& moe = *model.config().moe;
  const std::string weights =
      concat("weights of 1 for each of ", moe.top_k, " experts (topk_norm ", moe.topk_norm, ")");
  if (layout != kGranite) {
    reasons.push_back(concat(weights, ": routers of ", layout,
                             has_sigmoid_routers(layout)
                                 ? " give sigmoids, or sigmoids that sum to 1"
                                 : " choose by probabilities, which sum to 1 or stay as they are"));
    return;
  }
  if (is_written_in({at::kHalf}, TensorPart::kRouter, model, spec))
    reasons.push_back(concat(weights, " need routers times 2^-40, which is 0 in float16: choose dtype float32"));
  const std::set<at::ScalarType> narrow{at::kBFloat16, at::kHalf};
  if (!std::has_single_bit(static_cast<uint64_t>(moe.top_k)) &&
      (is_written_in(narrow, TensorPart::kRouter, model, spec) ||
       is_written_in(narrow, TensorPart::kDown, model, spec))) {
    reasons.push_back(concat(weights, " stand as weights of 1/", moe.top_k, " and down projections times ", moe.top_k,
                             ", which 16 bits round where that is no power of two: choose dtype float32"));
  }
}

void add_weight_reasons(const std::string& layout, const ModelDirectory& model, const v1::ExportSpec& spec,
                        Reasons& reasons) {
  const ChosenWeights weights = chosen_weights(*model.config().moe);
  if (weights == ChosenWeights::kOnes) add_reasons_of_ones(layout, model, spec, reasons);
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

void add_shared_reasons(const std::string& layout, const ModelConfig& config, Reasons& reasons) {
  if (layout == kMixtral && has_shared_expert(config)) reasons.emplace_back("mixtral has no shared expert");
  const MoeConfig& moe = *config.moe;
  if (moe.shared_gate == "none" || layout == kMixtral) return;
  const std::string gate = concat("a learned gate on shared experts (shared_gate ", moe.shared_gate, "): ");
  if (layout != kQwen) {
    reasons.push_back(concat(gate, "those of ", layout, " count in full"));
  } else if (moe.shared_gate != "sigmoid") {
    reasons.push_back(concat(gate, "qwen2_moe's is one sigmoid"));
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

}  // namespace

std::vector<std::string> stock_reasons_against(const std::string& layout, const ModelDirectory& model,
                                               const v1::ExportSpec& spec) {
  const ModelConfig& config = model.config();
  if (!config.moe) return {"it is a dense model, which stock clients read as it is"};
  Reasons reasons;
  add_common_reasons(config, reasons);
  if (config.moe->num_experts == 0) return reasons;  // of attention alone
  add_score_reasons(layout, *config.moe, reasons);
  add_weight_reasons(layout, model, spec, reasons);
  add_dense_layer_reasons(layout, config, reasons);
  add_shared_reasons(layout, config, reasons);
  add_attention_reasons(layout, config, reasons);
  // Where we have no gate, qwen2_moe's has no tensor of ours: it takes the embedding's type.
  if (layout == kQwen && !has_gates_everywhere(*config.moe) &&
      written_type(model, spec, tensor_name(config, TensorPart::kEmbedding)) == at::kHalf) {
    reasons.emplace_back(
        "its weights are float16, in which qwen2_moe's gate of 1e-20 is 0: choose dtype float32 or bfloat16");
  }
  return reasons;
}

}  // namespace moe
