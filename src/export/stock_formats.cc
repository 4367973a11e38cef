#include "export/stock_formats.h"

#include <algorithm>

#include "checkpoint/tensor_assembly.h"
#include "common/error.h"
#include "export/stock_clients.h"
#include "export/stock_reasons.h"
#include "export/stock_traits.h"
#include "model/stock/glm4_moe_layout.h"
#include "model/stock/qwen2_moe_layout.h"
#include "model/stock/stock_layouts.h"

namespace moe {
namespace {

int64_t widest(const std::vector<int64_t>& widths, int64_t multiple) {
  const int64_t width = *std::max_element(widths.begin(), widths.end());
  return multiple > 1 ? (width + multiple - 1) / multiple * multiple : width;
}

StockForm form_of(const std::string& layout, const ModelConfig& config, const v1::ExportSpec& spec) {
  StockForm form{
      .expert_width = widest(config.moe->expert_widths, spec.pad_experts_to()),
      .shared_width = has_shared_expert(config) ? widest(config.moe->shared_widths, spec.pad_experts_to()) : 0};
  if (layout == kQwen && form.shared_width == 0) form.shared_width = kDummySharedWidth;
  if (has_sigmoid_routers(layout)) form.shared_width = glm4_shared_width(form.shared_width, form.expert_width);
  // llama.cpp's qwen2moe needs an output matrix of its own.
  form.is_tied = config.tie_word_embeddings && spec.keep_tied() && layout != kQwen;
  if (chosen_weights(*config.moe) == ChosenWeights::kOnes) {
    form.router_factor = kEvenRouterFactor;
    form.routed_factor = static_cast<double>(config.moe->top_k);
  }
  return form;
}

void add_scale_notes(const std::string& layout, const ModelConfig& config, const StockForm& form,
                     std::vector<std::string>& notes) {
  std::vector<double> scales;
  for (const int64_t layer : config.moe->mixture_layers()) scales.push_back(config.moe->output_scale[layer]);
  const bool is_one = std::all_of(scales.begin(), scales.end(), [](double scale) { return scale == 1; });
  if (has_sigmoid_routers(layout) &&
      std::count(scales.begin(), scales.end(), scales.front()) == static_cast<int64_t>(scales.size())) {
    if (!is_one) notes.push_back(concat("the output scale is routed_scaling_factor ", scales.front()));
    return;
  }
  const auto rounded = std::count_if(scales.begin(), scales.end(),
                                     [&](double scale) { return !is_power_of_two(scale * form.routed_factor); });
  if (is_one && form.routed_factor == 1) return;
  notes.push_back(rounded == 0
                      ? "output scales are powers of two: folded into the down projections exactly"
                      : concat("output scales are folded into the down projections; ", rounded, " of ", scales.size(),
                               " are not powers of two, so that those products are rounded once"));
}

void add_router_notes(const std::string& layout, const MoeConfig& moe, std::vector<std::string>& notes) {
  if (chosen_weights(moe) == ChosenWeights::kOnes) {
    notes.push_back(
        concat("weights of 1 for each of ", moe.top_k,
               " experts: routers are multiplied by 2^-40, so that they choose the same and weigh each by 1/",
               moe.top_k, ", and down projections by ", moe.top_k, "; load it in the dtype of its files"));
  }
  if (moe.router_noise != "none")
    notes.push_back(
        concat("the ", moe.router_noise, " noise of training is left out, as it is when the model is used"));
  if (has_sigmoid_routers(layout) && moe.has_selection_bias)
    notes.emplace_back("selection biases are e_score_correction_bias, in float32");
}

void add_shared_notes(const std::string& layout, const ModelConfig& config, const StockForm& form,
                      std::vector<std::string>& notes) {
  const bool has_shared = has_shared_expert(config);
  if (const MoeConfig& moe = *config.moe; moe.shared_gate != "none") {
    notes.push_back(concat(
        "the shared expert's gate is the model's, its scale ", moe.shared_gate_scale, " stands in the down projection",
        is_power_of_two(moe.shared_gate_scale) ? ", which is exact" : ", whose products are rounded once"));
  } else if (layout == kQwen) {
    notes.emplace_back(has_shared
                           ? "the shared expert's gate is constant 1/2 and its down projection doubled, which is exact"
                           : "a shared expert of zeros stands where qwen2_moe wants one");
  }
  if (!has_sigmoid_routers(layout)) return;
  const int64_t width = widest(config.moe->shared_widths, 1);
  if (!has_shared) {
    notes.push_back(concat("a shared expert of zeros, as wide as a routed one, stands where ", layout, " wants one"));
  } else if (width != form.shared_width) {
    notes.push_back(concat("the shared expert is filled with zeros from ", width, " to ", form.shared_width,
                           ", a whole number of routed ones"));
  }
}

void add_notes(const std::string& layout, const ModelConfig& config, const StockForm& form, ExportContents& contents) {
  std::vector<std::string>& notes = contents.notes;
  add_router_notes(layout, *config.moe, notes);
  add_scale_notes(layout, config, form, notes);
  add_shared_notes(layout, config, form, notes);
  if (const std::vector<int64_t> dense = config.moe->dense_layers(); !dense.empty()) {
    notes.push_back(
        concat(dense.size(), " dense layers stand in ", layout == kQwen ? "mlp_only_layers" : "first_k_dense_replace"));
  }
  if (layout == kQwen && !config.qkv_bias)
    notes.emplace_back("q, k and v get biases of zero, which qwen2_moe always has");
  if (layout == kGranite && config.qkv_bias && !config.o_bias)
    notes.emplace_back("the attention's output gets biases of zero, as granitemoeshared has all biases or none");
  if (config.tie_word_embeddings && !form.is_tied) notes.emplace_back("the tied head is written out as lm_head.weight");
  if (form.expert_width % 8 != 0) {
    notes.push_back(concat("experts are ", form.expert_width,
                           " wide; transformers 5 multiplies them in groups, which it does for rows of whole 16 bytes "
                           "alone: --pad-experts-to 8 lets it"));
  } else if (form.expert_width % 256 != 0) {
    notes.push_back(concat("experts are ", form.expert_width,
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
      concat(stock_layouts().at(layout).architecture, " of transformers and other stock clients"), true,
      [layout](const ModelDirectory& model, const v1::ExportSpec& spec) {
        return stock_reasons_against(layout, model, spec);
      },
      [layout](const ModelConfig& config) { return stock_clients_of(layout, config); },
      [layout](const ModelDirectory& model, const v1::ExportSpec& spec) { return contents_of(layout, model, spec); }};
}

}  // namespace moe
