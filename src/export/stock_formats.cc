#include "export/stock_formats.h"

#include <algorithm>

#include "checkpoint/tensor_assembly.h"
#include "common/error.h"
#include "model/stock/qwen2_moe_layout.h"
#include "model/stock/stock_layouts.h"

namespace moe {
namespace {

constexpr char kMixtral[] = "mixtral", kGranite[] = "granitemoeshared", kQwen[] = "qwen2_moe";
constexpr char kTransformers[] = "transformers 4.5x, 5", kVllm[] = "vLLM", kLlamaCpp[] = "llama.cpp";

bool has_shared(const ModelConfig& config) {
  const std::vector<int64_t>& widths = config.moe->shared_widths;
  return std::any_of(widths.begin(), widths.end(), [](int64_t width) { return width > 0; });
}

bool has_square_heads(const ModelConfig& config) {
  return config.num_heads * config.head_dim == config.hidden_size;
}

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
  if (moe.router != "linear") reasons.push_back(concat("router ", moe.router));
  if (moe.score != "softmax")
    reasons.push_back(concat("its router has ", moe.score, " scores: those of stock mixtures are softmaxes"));
  if (moe.has_selection_bias) {
    reasons.emplace_back(
        "its routers have selection biases (train.balance selection_bias or quantile), which no router with softmax "
        "scores has: train without them (balance: auxiliary), or keep it native");
  }
  if (moe.has_output_bias) {
    reasons.emplace_back(
        "its mixtures add a bias to each token's output (scale.alignment mean_variance), which those of stock "
        "architectures do not: convert with alignment variance, or keep it native");
  }
  if (moe.num_experts < 2) reasons.push_back(concat(moe.num_experts, " expert: stock mixtures have at least 2"));
  if ((moe.topk_norm == "straight_through" || moe.topk_norm == "unit") && moe.top_k > 1) {
    reasons.push_back(concat("weights of 1 for each of ", moe.top_k, " experts (topk_norm ", moe.topk_norm,
                             "): stock routers give weights that sum to 1, or probabilities"));
  }
  if (moe.topk_norm == "one_plus")
    reasons.emplace_back("weights of 1 + gain * score (topk_norm one_plus): stock routers have no gains");
}

void add_layout_reasons(const std::string& layout, const ModelConfig& config, Reasons& reasons) {
  const bool is_qwen = layout == kQwen;
  if (const std::vector<int64_t> dense = config.moe->dense_layers(); !is_qwen && !dense.empty()) {
    reasons.push_back(concat(dense.size(), " of its ", config.num_layers, " layers are dense, the first of them layer ",
                             dense.front(), ": every layer of ", layout, " is a mixture"));
  }
  if (!is_qwen && config.moe->topk_norm == "raw")
    reasons.push_back(concat(layout, " renormalises the weights of the chosen experts (topk_norm is raw)"));
  if (layout == kMixtral) {
    if (has_shared(config)) reasons.emplace_back("mixtral has no shared expert");
    if (config.qkv_bias || config.o_bias) reasons.emplace_back("mixtral's attention has no biases");
    return;
  }
  if (!has_square_heads(config)) {
    reasons.push_back(concat("clients of ", layout, " take hidden_size / heads for the size of a head: ",
                             config.num_heads, " * ", config.head_dim, " is not ", config.hidden_size));
  }
  if (is_qwen && config.o_bias) reasons.emplace_back("qwen2_moe has no bias on the attention's output");
  if (!is_qwen && config.qkv_bias != config.o_bias)
    reasons.emplace_back("granitemoeshared has biases on q, k, v and o or on none of them");
}

Reasons reasons_against(const std::string& layout, const ModelDirectory& model, const v1::ExportSpec& spec) {
  const ModelConfig& config = model.config();
  if (!config.moe) return {"it is a dense model, which stock clients read as it is"};
  Reasons reasons;
  add_common_reasons(config, reasons);
  add_layout_reasons(layout, config, reasons);
  if (layout == kQwen && spec.dtype() == "source" && model.stored_dtype() == "F16") {
    reasons.emplace_back(
        "its weights are float16, in which qwen2_moe's gate of 1e-20 is 0: choose dtype float32 or bfloat16");
  }
  return reasons;
}

std::vector<ClientNote> clients_of(const std::string& layout, const ModelConfig& config) {
  ClientNote transformers{kTransformers, true, ""}, vllm{kVllm, true, ""}, llama_cpp{kLlamaCpp, true, ""};
  const std::string& rope = config.rope.type;
  if (rope != "default" && layout != kQwen) {
    vllm.note = concat("needs a version that hands RoPE scaling (here ", rope, ") to ", layout,
                       "; older ones take theta alone, without a word");
  }
  if (rope == "yarn" && config.rope.original_max_positions > 0 &&
      config.rope.factor * static_cast<double>(config.rope.original_max_positions) !=
          static_cast<double>(config.max_positions)) {
    transformers.note =
        "YaRN's factor is not max_position_embeddings / original: some 4.5x versions take the quotient instead";
  }
  if (layout == kGranite && config.qkv_bias) {
    vllm = {kVllm, false, "its granite attention has no biases"};
    llama_cpp = {kLlamaCpp, false, "attention biases in its granite architecture are not checked"};
  }
  if (layout == kQwen) {
    if (config.moe->topk_norm != "raw") {
      llama_cpp = {kLlamaCpp, false, "its qwen2moe never renormalises the weights"};
    } else if (rope == "llama3") {
      llama_cpp = {kLlamaCpp, false, "its qwen2moe does not know llama3 RoPE scaling"};
    } else if (!config.moe->dense_layers().empty()) {
      llama_cpp = {kLlamaCpp, false, "its qwen2moe has experts in every layer"};
    }
  }
  return {transformers, vllm, llama_cpp};
}

int64_t widest(const std::vector<int64_t>& widths, int64_t multiple) {
  const int64_t width = *std::max_element(widths.begin(), widths.end());
  return multiple > 1 ? (width + multiple - 1) / multiple * multiple : width;
}

StockForm form_of(const std::string& layout, const ModelConfig& config, const v1::ExportSpec& spec) {
  StockForm form{.expert_width = widest(config.moe->expert_widths, spec.pad_experts_to()),
                 .shared_width = has_shared(config) ? widest(config.moe->shared_widths, spec.pad_experts_to()) : 0};
  if (layout == kQwen && form.shared_width == 0) form.shared_width = kDummySharedWidth;
  // llama.cpp's qwen2moe needs an output matrix of its own.
  form.is_tied = config.tie_word_embeddings && spec.keep_tied() && layout != kQwen;
  return form;
}

void add_notes(const std::string& layout, const ModelConfig& config, const StockForm& form, ExportContents& contents) {
  std::vector<double> scales;
  for (const int64_t layer : config.moe->mixture_layers()) scales.push_back(config.moe->output_scale[layer]);
  const auto rounded =
      std::count_if(scales.begin(), scales.end(), [](double scale) { return !is_power_of_two(scale); });
  if (std::any_of(scales.begin(), scales.end(), [](double scale) { return scale != 1; })) {
    contents.notes.push_back(rounded == 0 ? "output scales are powers of two: folded into the down projections exactly"
                                          : concat("output scales are folded into the down projections; ", rounded,
                                                   " of ", scales.size(),
                                                   " are not powers of two, so that those products are rounded once"));
  }
  if (layout == kQwen) {
    contents.notes.emplace_back(
        has_shared(config) ? "the shared expert's gate is constant 1/2 and its down projection doubled, which is exact"
                           : "a shared expert of zeros stands where qwen2_moe wants one");
    if (const std::vector<int64_t> dense = config.moe->dense_layers(); !dense.empty())
      contents.notes.push_back(concat(dense.size(), " dense layers stand in mlp_only_layers"));
    if (!config.qkv_bias) contents.notes.emplace_back("q, k and v get biases of zero, which qwen2_moe always has");
  }
  if (config.tie_word_embeddings && !form.is_tied)
    contents.notes.emplace_back("the tied head is written out as lm_head.weight");
  if (form.expert_width % 256 != 0) {
    contents.notes.push_back(
        concat("experts are ", form.expert_width,
               " wide; --pad-experts-to 256 suits tensor parallelism in vLLM and llama.cpp's k-quants"));
  }
}

ExportContents contents_of(const std::string& layout, const ModelDirectory& model, const v1::ExportSpec& spec) {
  const ModelConfig& config = model.config();
  const StockForm form = form_of(layout, config, spec);
  const StockLayout& stock = stock_layouts().at(layout);
  ExportContents contents{
      .config = stock.write_config(config, form), .tensors = stock.tensors(config, form), .notes = {}};
  for (const int64_t layer : config.moe->mixture_layers()) {
    for (int64_t expert = 0; expert < config.moe->num_experts; ++expert) {
      contents.expert_values += 3 * config.hidden_size * config.moe->expert_width(layer, expert);
      contents.stored_expert_values += 3 * config.hidden_size * form.expert_width;
    }
  }
  add_notes(layout, config, form, contents);
  return contents;
}

}  // namespace

ExportFormat stock_format(const std::string& layout) {
  return {
      concat(stock_layouts().at(layout).architecture, " of transformers, vLLM and llama.cpp"), true,
      [layout](const ModelDirectory& model, const v1::ExportSpec& spec) {
        return reasons_against(layout, model, spec);
      },
      [layout](const ModelConfig& config) { return clients_of(layout, config); },
      [layout](const ModelDirectory& model, const v1::ExportSpec& spec) { return contents_of(layout, model, spec); }};
}

}  // namespace moe
