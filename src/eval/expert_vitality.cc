#include "eval/expert_vitality.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "eval/text_analysis.h"
#include "model/moe/shared_gate.h"
#include "model/parameters.h"

// T tokens, E experts, K top-k, D hidden.
namespace moe {
namespace {

at::Tensor in_float(const at::Tensor& values) {
  return values.to(at::promoteTypes(values.scalar_type(), at::kFloat));
}

/// Norm of each row, on the host. [T] double
at::Tensor row_norms(const at::Tensor& rows_TD) {
  return in_float(rows_TD).pow(2).sum({1}, /*keepdim=*/false, at::kDouble).cpu().sqrt().contiguous();
}

/// Norms of what each expert of each mixture adds to the output, summed over tokens in their order; the shared one's
/// stands last.
class OutputNorms final : public TextAnalysis {
 public:
  void see_mixture(const MixtureView& view, const TextPieces& /*pieces*/) override {
    const int64_t experts = view.options.num_experts;
    std::vector<double>& sums = sums_[view.layer];
    sums.resize(experts + 1, 0);
    const at::Tensor ids_TK = view.routing.expert_ids_TK.cpu().contiguous(),
                     weights_TK = host_rows(view.routing.weights_TK);
    const int64_t tokens = ids_TK.size(0), top_k = ids_TK.size(1);
    for (int64_t slot = 0; slot < top_k; ++slot) {
      const at::Tensor norms_T = row_norms(chosen_expert_output(view, slot));
      for (int64_t t = 0; t < tokens; ++t) {
        const double weight = weights_TK.const_data_ptr<double>()[t * top_k + slot] * view.options.output_scale;
        sums[ids_TK.const_data_ptr<int64_t>()[t * top_k + slot]] +=
            norms_T.const_data_ptr<double>()[t] * std::abs(weight);
      }
    }
    const MoeWeights& weights = view.weights;
    if (!weights.shared) return;
    const at::Tensor norms_T =
        row_norms(shared_output(*weights.shared, weights.shared_gate_RD, view.options.shared_gate, view.x_TD));
    const auto* const norms = norms_T.const_data_ptr<double>();
    sums[experts] = std::accumulate(norms, norms + tokens, sums[experts]);
  }

  /// Asked for by layer instead.
  nlohmann::json result(Communicator& /*world*/) override { return nullptr; }

  /// Share of each expert in the sum of all and the shared one: 0 where that is 0. [E] Collective.
  std::vector<double> shares(int64_t layer, int64_t experts, Communicator& world) const {
    at::Tensor sums_E = at::zeros({experts + 1}, at::kDouble);
    auto* const sums = sums_E.mutable_data_ptr<double>();
    if (const auto found = sums_.find(layer); found != sums_.end())
      std::copy(found->second.begin(), found->second.end(), sums);
    world.all_reduce_sum(sums_E, "norms of experts' outputs");
    const double all = std::accumulate(sums, sums + experts + 1, 0.0);
    std::vector<double> shares(sums, sums + experts);
    for (double& share : shares) share = all == 0 ? 0 : share / all;
    return shares;
  }

 private:
  std::map<int64_t, std::vector<double>> sums_;  ///< [E + 1], by layer; a rank may have had no text
};

/// Sum of squares and number of the weights and biases of every expert. [E, 2] double, by part and layer.
using ExpertSizes = std::map<std::pair<bool, int64_t>, at::Tensor>;  ///< {is of attention, layer}

/// Beyond its own width an expert's stack holds zeros. Collective.
ExpertSizes sizes_of_experts(const LoadedModel& model, Mesh& mesh) {
  ExpertSizes sizes;
  for (const Parameter& parameter : model.decoder.parameters()) {
    if (!parameter.is_expert) continue;
    const bool is_of_attention = parameter.id.is_of_attention();
    const MoeConfig& moe = *model.config().moe;
    at::Tensor& sizes_E2 = sizes[{is_of_attention, parameter.id.layer}];
    if (!sizes_E2.defined())
      sizes_E2 = at::zeros({is_of_attention ? moe.attention->num_experts : moe.num_experts, 2}, at::kDouble);
    for (int64_t e = 0; e < parameter.experts.count; ++e) {
      const at::Tensor expert = in_float(parameter.value.detach()[e]);
      sizes_E2[parameter.experts.first + e][0] += expert.pow(2).sum(at::kDouble).cpu();
    }
    for (const StackedTensor& tensor : parameter.stacked) {
      const int64_t others = parameter.value[tensor.index].numel() / parameter.value.size(tensor.dim + 1);
      sizes_E2[parameter.experts.first + tensor.index][1] += tensor.count * others;
    }
  }
  for (auto& [place, sizes_E2] : sizes) mesh.expert_group().all_reduce_sum(sizes_E2, "sizes of experts");
  return sizes;
}

}  // namespace

std::vector<ExpertVitality> measure_expert_vitality(const LoadedModel& model, HeldOutData& data, Mesh& mesh,
                                                    const PassChoice& choice) {
  OutputNorms outputs;
  const bool has_ffns = model.config().moe && model.config().moe->num_experts > 0;
  if (has_ffns) run_text_analyses(model, data, mesh, {&outputs}, {}, {kVitalityRows, choice});
  std::vector<ExpertVitality> parts;
  for (const auto& [place, sizes_E2] : sizes_of_experts(model, mesh)) {
    const auto& [is_of_attention, layer] = place;
    ExpertVitality& part = parts.emplace_back();
    part.layer = layer;
    part.part = is_of_attention ? "attention" : "ffn";
    if (!is_of_attention) part.output_share = outputs.shares(layer, sizes_E2.size(0), mesh.world());
    const auto* size = sizes_E2.const_data_ptr<double>();
    for (int64_t e = 0; e < sizes_E2.size(0); ++e, size += 2) {
      part.weight_norm.push_back(std::sqrt(size[0]));
      part.weight_rms.push_back(std::sqrt(size[0] / size[1]));
    }
  }
  return parts;
}

double least_over_mean(const std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  if (!std::isfinite(sum)) return std::numeric_limits<double>::quiet_NaN();
  return sum == 0 ? 0 : *std::min_element(values.begin(), values.end()) * static_cast<double>(values.size()) / sum;
}

double worst_of(const std::vector<ExpertVitality>& parts, std::vector<double> ExpertVitality::*values) {
  double worst = 1;
  for (const ExpertVitality& part : parts) {
    if ((part.*values).empty()) continue;
    const double least = least_over_mean(part.*values);
    if (std::isnan(least)) return least;
    worst = std::min(worst, least);
  }
  return worst;
}

}  // namespace moe
