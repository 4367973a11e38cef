#include "convert/methods/sharing_inter.h"

#include <utility>
#include <vector>

#include "common/error.h"
#include "convert/greedy_assignment.h"
#include "convert/methods/importance_options.h"
#include "convert/neuron_scores.h"
#include "convert/shared_selection.h"

namespace moe {
namespace {

constexpr char kRouted[] = "routed", kDisjoint[] = "disjoint";

/// Scores without the neurons that are taken.
std::vector<std::vector<int32_t>> best_of(const at::Tensor& scores_EF, const std::vector<int32_t>& left,
                                          int64_t width) {
  const at::Tensor of_left = scores_EF.index_select(1, at::tensor(at::ArrayRef<int32_t>(left), at::kLong));
  std::vector<std::vector<int32_t>> experts;
  for (int64_t expert = 0; expert < scores_EF.size(0); ++expert) {
    std::vector<int32_t>& neurons = experts.emplace_back(best_neurons(of_left[expert], width));
    for (int32_t& neuron : neurons) neuron = left[neuron];
  }
  return experts;
}

LayerPlan plan_sharing_inter(const LayerInputs& inputs, Communicator& /*world*/) {
  const v1::FfnExpertsSpec& ffn = inputs.spec.ffn();
  const at::Tensor all = scores_by_option(inputs), routed = all.narrow(0, 0, ffn.experts());
  const int64_t width = part_width(inputs.config, ffn);
  std::vector<int32_t> shared = shared_selection(inputs.options.choice("count_all") == "true" ? all : routed, width,
                                                 ffn.shared_experts() * width);
  const std::vector<int32_t> left = neurons_without(inputs.config.intermediate_size, shared);
  return plan_of_neurons(inputs.options.choice(kRouted) == kDisjoint ? greedy_assignment(routed, width, left)
                                                                     : best_of(routed, left, width),
                         std::move(shared));
}

std::string sharing_inter_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  if (std::string problem = shared_problem(ffn); !problem.empty()) return problem;
  if (!ffn.has_expert_width()) return division_problem(config, ffn);
  const auto routed = ffn.options().find(kRouted);
  const bool is_disjoint = routed != ffn.options().end() && routed->second == kDisjoint;
  const int64_t units = ffn.shared_experts() + (is_disjoint ? ffn.experts() : 1),
                most = config.intermediate_size / units;
  if (is_disjoint && ffn.expert_width() * units != config.intermediate_size) {
    return concat("ffn.expert_width is ", ffn.expert_width(), ", and ", units, " disjoint parts of an FFN ",
                  config.intermediate_size, " wide have ", static_cast<double>(config.intermediate_size) / units,
                  " each; remove it, or let ffn.options.routed be overlapping");
  }
  if (ffn.expert_width() <= most) return "";
  return concat("ffn.expert_width is ", ffn.expert_width(), ", and ", ffn.shared_experts(),
                " shared experts and one routed do not fit into an FFN ", config.intermediate_size, " wide; use 1 to ",
                most);
}

}  // namespace

ConversionMethod sharing_inter() {
  return {.summary =
              "a shared part of what most clusters of text need, and the most important of the rest for each "
              "(LLaMA-MoE v1)",
          .is_partition = false,
          .is_partition_with = [](const MethodOptions& options) { return options.choice(kRouted) == kDisjoint; },
          .plan = plan_sharing_inter,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .options = with_measure_options(
              {clusters_option("text"),
               normalise_option("per_cluster_sum", "none"),
               {.name = kRouted,
                .help = "whether routed experts may have neurons in common, or all that are left are given away",
                .fallback = "overlapping",
                .choices = {"overlapping", kDisjoint}},
               {.name = "count_all",
                .help = "whether the clusters of shared experts too are asked which neurons are shared",
                .fallback = "false",
                .choices = {"false", "true"}}},
              ""),
          .has_shared = true,
          .has_free_width = true,
          .size_problem = sharing_inter_problem,
          .text_problem = text_problem_for_all_experts,
          .group_tokens = group_for_all_experts,
          .groups_name = groups_for_all_experts};
}

}  // namespace moe
