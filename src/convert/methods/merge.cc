#include "convert/methods/merge.h"

#include <ATen/ATen.h>

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "convert/condition_number.h"
#include "convert/placed_specs.h"
#include "convert/prompt_router.h"

namespace moe {
namespace {

const std::vector<MethodOption>& merge_options() {
  static const std::vector<MethodOption> options{
      {.name = "attention",
       .help = "what stands beside the FFNs (attention, norms, embeddings) is the input's, or the mean of all models",
       .fallback = "base",
       .published = "mean",
       .choices = {"base", "mean"}},
      {.name = "router",
       .help = "an expert's row is what its prompts are before the layer: the last token, the mean of all, or the sum "
               "of their embeddings; or random numbers",
       .fallback = "hidden",
       .published = "random",
       .choices = {"hidden", "hidden_avg", "cheap_embed", "random"}}};
  return options;
}

/// The models that experts come from.
int64_t models_of(const v1::FfnExpertsSpec& ffn) {
  return 1 + ffn.others_size();
}

std::string merge_size_problem(const ModelConfig& /*config*/, const v1::FfnExpertsSpec& ffn) {
  if (ffn.others().empty()) return "ffn.method merge takes the FFNs of several models; list the others as ffn.others";
  if (ffn.experts() == models_of(ffn)) return "";
  return concat("ffn.experts is ", ffn.experts(), ", and the input and ffn.others are ", models_of(ffn),
                " models, each of which is one expert; set ", models_of(ffn), " or leave it out");
}

LayerWidths merged_widths(const ModelConfig& config, const v1::ConvertSpec& spec) {
  return {std::vector<int64_t>(models_of(spec.ffn()), config.intermediate_size)};
}

/// The mean over all models, formed in float64 and rounded once.
PiecedTensor mean_of_models(const TensorSpec& spec, int64_t models) {
  PiecedTensor mean{spec.name, spec.shape};
  for (int64_t model = 0; model < models; ++model) {
    mean.pieces.push_back(
        {.source = spec.name, .factor = 1 / static_cast<double>(models), .model = model, .adds = true});
  }
  return mean;
}

std::vector<PiecedTensor> means_of_models(const std::vector<TensorSpec>& specs, int64_t models) {
  std::vector<PiecedTensor> means;
  for (const TensorSpec& spec : specs) means.push_back(mean_of_models(spec, models));
  return means;
}

/// Unit normal.
at::Tensor random_rows(const LayerInputs& inputs) {
  CounterRng rng(inputs.seed, kStreamRouter, static_cast<uint32_t>(inputs.layer));
  at::Tensor rows_ED = at::empty({models_of(inputs.spec.ffn()), inputs.config.hidden_size}, at::kFloat);
  float* const value = rows_ED.mutable_data_ptr<float>();
  for (int64_t i = 0; i < rows_ED.numel(); ++i) value[i] = static_cast<float>(rng.normal());
  return rows_ED;
}

LayerPlan plan_merged(const LayerInputs& inputs, Communicator& world) {
  std::vector<int32_t> neurons(inputs.config.intermediate_size);
  std::iota(neurons.begin(), neurons.end(), 0);
  const IndexList all = index_list(std::move(neurons));
  const int64_t models = models_of(inputs.spec.ffn());
  LayerPlan plan;
  for (int64_t model = 0; model < models; ++model) plan.experts.push_back({{{.neurons = all, .model = model}}});
  if (inputs.options.choice("attention") == "mean")
    plan.others = means_of_models(specs_beside_ffn(inputs.config, inputs.layer), models);
  const std::string& mode = inputs.options.choice("router");
  plan.router_ED = mode == "random" ? random_rows(inputs) : prompt_router(mode, inputs, world);
  plan.router_condition = condition_number(plan.router_ED);
  return plan;
}

std::vector<PiecedTensor> merged_ends(const ModelConfig& config, const v1::ConvertSpec& spec,
                                      const MethodOptions& options) {
  if (options.choice("attention") == "base") return {};
  const PlacedSpecs specs = placed_specs(config);
  std::vector<PiecedTensor> means = means_of_models(specs.before_layers, models_of(spec.ffn()));
  for (PiecedTensor& mean : means_of_models(specs.after_layers, models_of(spec.ffn())))
    means.push_back(std::move(mean));
  return means;
}

PromptNeeds prompts_of(const MethodOptions& options) {
  const std::string& mode = options.choice("router");
  if (mode == "random") return PromptNeeds::kNone;
  return mode == "cheap_embed" ? PromptNeeds::kEmbeddings : PromptNeeds::kHiddenStates;
}

std::string has_one_bias(const ModelConfig& config) {
  return config.mlp_bias ? "the down projections of " + config.model_type +
                               " have a bias, of which a mixture has one and not one an expert"
                         : "";
}

}  // namespace

ConversionMethod merge() {
  return {.summary =
              "the FFNs of several models of one shape as experts, routers from the texts that each is for "
              "(Branch-Train-MiX)",
          .is_partition = false,
          .plan = plan_merged,
          .widths = merged_widths,
          .options = merge_options(),
          .has_others = true,
          .size_problem = merge_size_problem,
          .has_router = true,
          .prompts = prompts_of,
          .ends = merged_ends,
          .refusal = has_one_bias};
}

}  // namespace moe
