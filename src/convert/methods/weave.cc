#include "convert/methods/weave.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
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
  const int64_t experts = inputs.spec.ffn().experts(), shared = equal_parts(inputs.config, inputs.spec).shared;
  const std::vector<int32_t> order = ranked_neurons(mean_activity(activity_SF));
  std::vector<int32_t> kept(order.begin(), order.begin() + shared), rest(order.begin() + shared, order.end());
  std::sort(kept.begin(), kept.end());
  std::sort(rest.begin(), rest.end());
  const KMeansResult found = balanced_kmeans(activity_SF.t().index_select(0, at::tensor(rest, at::kInt)).contiguous(),
                                             {.clusters = experts,
                                              .seed = inputs.seed,
                                              .stream = kStreamNeuronClusters,
                                              .substream = static_cast<uint32_t>(inputs.layer)},
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
          .widths = equal_parts,
          .needs = {.weights = true, .hidden_states = true},
          .has_shared = true,
          .text_problem = [](const v1::FfnExpertsSpec&, const MethodOptions&,
                             const TextSize& text) { return too_few_for_weave(text.documents); },
          .has_router = true,
          .refusal = needs_gated_ffn};
}

}  // namespace moe
