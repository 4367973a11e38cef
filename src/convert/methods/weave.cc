#include "convert/methods/weave.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/rng.h"
#include "convert/balanced_kmeans.h"
#include "convert/ranked_neurons.h"
#include "model/ops.h"

namespace moe {
namespace {

const std::vector<MethodOption>& weave_options() {
  static const std::vector<MethodOption> options{
      {.name = "shared",
       .help = "width of the shared part: ffn.shared_experts, or of each layer its own, by how much neurons vary",
       .fallback = "fixed",
       .published = "adaptive",
       .choices = {"fixed", "adaptive"}},
      {.name = "tau",
       .help = "of shared adaptive: variation above which a neuron counts as varying",
       .fallback = "0.6",
       .most = 100},
      {.name = "alpha_min",
       .help = "of shared adaptive: shared part of a layer whose neurons all vary",
       .fallback = "0.2"},
      {.name = "alpha_max",
       .help = "of shared adaptive: shared part of a layer whose neurons never vary",
       .fallback = "0.7"},
      {.name = "rows",
       .help = "what is clustered of a neuron's activity by document: its direction, or the row as it is",
       .fallback = "directions",
       .published = "plain",
       .choices = {"directions", "plain"}}};
  return options;
}

bool is_adaptive(const MethodOptions& options) {
  return options.choice("shared") == "adaptive";
}

MethodOptions options_of(const v1::FfnExpertsSpec& ffn) {
  v1::ConvertSpec spec;
  *spec.mutable_ffn() = ffn;
  return {weave_options(), spec};
}

std::string weave_size_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  const MethodOptions options = options_of(ffn);
  if (!is_adaptive(options)) {
    for (const char* option : {"tau", "alpha_min", "alpha_max"}) {
      if (!ffn.options().contains(option)) continue;
      return concat("ffn.options.", option,
                    " has no effect with ffn.options.shared fixed; remove it or set shared: ", "adaptive");
    }
    return division_problem(config, ffn);
  }
  if (ffn.shared_experts() > 0) {
    return concat("ffn.shared_experts is ", ffn.shared_experts(),
                  ", and ffn.options.shared adaptive gives each layer a shared part of its own; remove it");
  }
  const double least = options.number("alpha_min"), most = options.number("alpha_max");
  if (least > most) return concat("ffn.options.alpha_min ", least, " is more than ffn.options.alpha_max ", most);
  const auto routed = static_cast<int64_t>((1 - most) * static_cast<double>(config.intermediate_size));
  if (ffn.experts() <= routed) return "";
  return concat("ffn.experts ", ffn.experts(), " share as few as ", routed, " neurons at ffn.options.alpha_max ", most,
                " of the FFN width ", config.intermediate_size, "; use fewer experts or a smaller alpha_max");
}

/// None where they follow from the text.
LayerWidths weave_widths(const ModelConfig& config, const v1::ConvertSpec& spec) {
  return is_adaptive(MethodOptions(weave_options(), spec)) ? LayerWidths() : equal_parts(config, spec);
}

/// |mean of silu(gate x)| by document of this rank. Sums are in the order of the tokens, [documents, F] float.
at::Tensor gate_activity(const LayerInputs& inputs) {
  const LayerFeatures& features = *inputs.features;
  const FeedForwardWeights& ffn = inputs.dense_ffn();
  const int64_t neurons = inputs.config.intermediate_size;
  const auto documents = static_cast<int64_t>(features.cu_seqlens.size()) - 1;
  at::Tensor activity_SF = at::empty({documents, neurons}, at::kFloat);
  float* activity = activity_SF.mutable_data_ptr<float>();
  for (int64_t s = 0; s < documents; ++s, activity += neurons) {
    const at::Tensor x_tD = features.ffn_inputs.local_TD.slice(0, features.cu_seqlens[s], features.cu_seqlens[s + 1]);
    const at::Tensor gate_tF = ops::linear(x_tD, ffn.gate, ffn.gate_bias).contiguous();
    std::vector<double> sums(neurons, 0);
    const float* gate = gate_tF.const_data_ptr<float>();
    for (int64_t t = 0; t < gate_tF.size(0); ++t) {
      for (double& sum : sums) {
        const double g = *gate++;
        sum += g / (1 + std::exp(-g));
      }
    }
    const double tokens = std::max(1.0, static_cast<double>(gate_tF.size(0)));
    for (int64_t i = 0; i < neurons; ++i) activity[i] = static_cast<float>(std::abs(sums[i] / tokens));
  }
  return activity_SF;
}

/// Over all documents. [F]
std::vector<double> mean_activity(const at::Tensor& activity_SF) {
  std::vector<double> means(activity_SF.size(1), 0);
  const float* activity = activity_SF.const_data_ptr<float>();
  for (int64_t s = 0; s < activity_SF.size(0); ++s) {
    for (double& mean : means) mean += *activity++ / static_cast<double>(activity_SF.size(0));
  }
  return means;
}

/// Share of neurons whose standard deviation over documents is more than tau of their mean.
double varying_share(const at::Tensor& activity_SF, double tau) {
  constexpr double kNone = 1e-8;  // a neuron that is never active does not vary
  const std::vector<double> means = mean_activity(activity_SF);
  std::vector<double> squares(means.size(), 0);
  const float* activity = activity_SF.const_data_ptr<float>();
  for (int64_t s = 0; s < activity_SF.size(0); ++s) {
    for (size_t i = 0; i < means.size(); ++i, ++activity) squares[i] += (*activity - means[i]) * (*activity - means[i]);
  }
  int64_t varying = 0;
  for (size_t i = 0; i < means.size(); ++i) {
    const double deviation = std::sqrt(squares[i] / static_cast<double>(activity_SF.size(0)));
    if (deviation / (means[i] + kNone) > tau) ++varying;
  }
  return static_cast<double>(varying) / static_cast<double>(means.size());
}

/// Neurons of the shared part. Adaptive: the published share of the layer, to the nearest width of which the experts
/// get equal parts of the rest.
int64_t shared_width(const LayerInputs& inputs, const at::Tensor& activity_SF) {
  const MethodOptions& options = inputs.options;
  if (!is_adaptive(options)) return equal_parts(inputs.config, inputs.spec).shared;
  const double least = options.number("alpha_min"), most = options.number("alpha_max"),
               alpha = most - (most - least) * varying_share(activity_SF, options.number("tau"));
  const int64_t neurons = inputs.config.intermediate_size, experts = inputs.spec.ffn().experts();
  const auto wanted = std::llround((1 - alpha) * static_cast<double>(neurons) / static_cast<double>(experts));
  return neurons - experts * std::clamp<int64_t>(wanted, 1, neurons / experts);
}

/// Means of the members' rows. [experts, D] float
at::Tensor mean_rows(const at::Tensor& rows_FD, const std::vector<std::vector<int32_t>>& experts) {
  const int64_t width = rows_FD.size(1);
  const at::Tensor rows = rows_FD.contiguous();
  at::Tensor means_ED = at::empty({static_cast<int64_t>(experts.size()), width}, at::kFloat);
  float* mean = means_ED.mutable_data_ptr<float>();
  for (const std::vector<int32_t>& neurons : experts) {
    std::vector<double> sums(width, 0);
    for (const int32_t neuron : neurons) {
      const float* const row = rows.const_data_ptr<float>() + neuron * width;
      for (int64_t d = 0; d < width; ++d) sums[d] += row[d];
    }
    for (const double sum : sums) *mean++ = static_cast<float>(sum / static_cast<double>(neurons.size()));
  }
  return means_ED;
}

std::string too_few_for_weave(int64_t documents) {
  if (documents >= 2) return "";
  return concat(
      "ffn.method weave tells neurons apart by the documents in which their gate is active, and the calibration text "
      "is ",
      documents, " document; give more documents or raise calibration.tokens");
}

LayerPlan plan_weave(const LayerInputs& inputs, Communicator& world) {
  const at::Tensor activity_SF = world.all_gather(gate_activity(inputs), "gate activity of documents").contiguous();
  if (const std::string problem = too_few_for_weave(activity_SF.size(0)); !problem.empty())
    throw_agreed<InvalidArgument>("convert: " + problem);
  if (!activity_SF.isfinite().all().item<bool>()) throw_overflow(inputs.layer);
  const int64_t experts = inputs.spec.ffn().experts(), shared = shared_width(inputs, activity_SF);
  const std::vector<int32_t> order = ranked_neurons(mean_activity(activity_SF));
  std::vector<int32_t> kept(order.begin(), order.begin() + shared), rest(order.begin() + shared, order.end());
  std::sort(kept.begin(), kept.end());
  std::sort(rest.begin(), rest.end());
  const KMeansResult found = balanced_kmeans(activity_SF.t().index_select(0, at::tensor(rest, at::kInt)).contiguous(),
                                             {.clusters = experts,
                                              .seed = inputs.seed,
                                              .stream = kStreamNeuronClusters,
                                              .substream = static_cast<uint32_t>(inputs.layer),
                                              .is_spherical = inputs.options.choice("rows") == "directions"},
                                             world);
  std::vector<std::vector<int32_t>> parts(experts);
  for (size_t i = 0; i < rest.size(); ++i) parts[found.cluster_of[i]].push_back(rest[i]);
  const at::Tensor router_ED = mean_rows(inputs.dense_ffn().gate, parts);
  LayerPlan plan = plan_of_neurons(std::move(parts), std::move(kept));
  plan.router_ED = router_ED;
  return plan;
}

}  // namespace

ConversionMethod weave() {
  return {.summary =
              "shared neurons by the mean activity of their gate, experts by the documents in which it is "
              "active, router rows from the gate (ExpertWeaver)",
          .is_partition = true,
          .plan = plan_weave,
          .widths = weave_widths,
          .needs = {.weights = true, .hidden_states = true},
          .options = weave_options(),
          .has_shared = true,
          .shares_by_layer = is_adaptive,
          .size_problem = weave_size_problem,
          .text_problem = [](const v1::FfnExpertsSpec&, const MethodOptions&,
                             const TextSize& text) { return too_few_for_weave(text.documents); },
          .has_router = true,
          .refusal = needs_gated_ffn};
}

}  // namespace moe
