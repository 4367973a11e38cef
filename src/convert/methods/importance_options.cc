#include "convert/methods/importance_options.h"

#include <utility>

#include "common/error.h"
#include "convert/feature_clusters.h"
#include "convert/greedy_assignment.h"
#include "convert/neuron_scores.h"
#include "convert/shared_selection.h"
#include "convert/token_groups.h"

namespace moe {
namespace {

TokenGroups group_by_option(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD, int64_t groups,
                            Communicator& world) {
  return inputs.options.choice("clusters") == "text" ? group_by_text(inputs, hidden_TD, groups, world)
                                                     : group_by_router(inputs, groups, world);
}

/// Of group_by_option().
std::string too_little_text(const std::string& method, const MethodOptions& options, const TextSize& text,
                            int64_t groups) {
  return options.choice("clusters") == "text" ? too_few_documents(method, text.documents, groups)
                                              : too_few_tokens("ffn.method " + method, text.tokens, groups);
}

}  // namespace

MethodOption clusters_option(const std::string& fallback) {
  return {.name = "clusters",
          .help =
              "groups of calibration tokens, one an expert: documents alike (v1), or FFN inputs as the router of "
              "router.init hidden_clustering tells them apart (v2)",
          .fallback = fallback,
          .choices = {"text", "router"}};
}

MethodOption normalise_option(const std::string& fallback, const std::string& published) {
  return {.name = "normalise",
          .help =
              "how groups compete for a neuron: by its mean importance per token, by its share of the group's sum, "
              "or by its rank",
          .fallback = fallback,
          .published = published,
          .choices = {"none", "per_cluster_sum", "rank"}};
}

std::vector<MethodOption> with_measure_options(std::vector<MethodOption> options, const std::string& published_loss) {
  options.push_back({.name = "loss",
                     .help = "the loss whose change importance is: the sum over tokens, or the mean of each document's",
                     .fallback = "sum",
                     .published = published_loss,
                     .choices = {"sum", "mean"}});
  options.push_back({.name = "worth",
                     .help = "what importance is of: h dL/dh, the change of the loss without the neuron, or dL/dh",
                     .fallback = "change",
                     .choices = {"change", "gradient"}});
  options.push_back({.name = "kernel",
                     .help = "what becomes of that: its absolute value, its square, or as it is",
                     .fallback = "l1_norm",
                     .choices = {"l1_norm", "l2_norm", "plain"}});
  options.push_back(
      {.name = "accumulate",
       .help = "whether the kernel is of each of the tokens, and then summed, or of their total, whose square "
               "counts large groups for more",
       .fallback = "tokens",
       .choices = {"tokens", "total"}});
  return options;
}

MethodOption criterion_option() {
  return {.name = "criterion",
          .help = "which scores are given away first: the largest, or the least",
          .fallback = "max",
          .choices = {"max", "min"}};
}

TokenGroups group_for_experts(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD,
                              Communicator& world) {
  return group_by_option(inputs, hidden_TD, inputs.spec.ffn().experts(), world);
}

TokenGroups group_for_all_experts(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD,
                                  Communicator& world) {
  return group_by_option(inputs, hidden_TD, inputs.spec.ffn().experts() + inputs.spec.ffn().shared_experts(), world);
}

std::string groups_for_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options) {
  return concat(options.choice("clusters"), " ", ffn.experts());
}

std::string groups_for_all_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options) {
  return concat(options.choice("clusters"), " ", ffn.experts() + ffn.shared_experts());
}

std::string text_problem_for_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options,
                                     const TextSize& text) {
  return too_little_text(ffn.method(), options, text, ffn.experts());
}

std::string text_problem_for_all_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options,
                                         const TextSize& text) {
  return too_little_text(ffn.method(), options, text, ffn.experts() + ffn.shared_experts());
}

std::string router_of_groups(const MethodOptions& options) {
  return options.choice("clusters") == "router" ? "hidden_clustering" : "";
}

at::Tensor scores_by_option(const LayerInputs& inputs) {
  return comparable_scores(*inputs.importance, inputs.options.choice("normalise"));
}

LayerPlan plan_greedy(const LayerInputs& inputs, Communicator& /*world*/) {
  const at::Tensor scores_EF = scores_by_option(inputs);
  return plan_of_neurons(greedy_assignment(inputs.options.choice("criterion") == "min" ? -scores_EF : scores_EF,
                                           part_width(inputs.config, inputs.spec.ffn()),
                                           neurons_without(inputs.config.intermediate_size, {})));
}

std::string shared_problem(const v1::FfnExpertsSpec& ffn) {
  if (ffn.shared_experts() > 0) return "";
  return concat("ffn.shared_experts is ", ffn.shared_experts(), ", and ffn.method ", ffn.method(),
                " is one with a shared part; use 1 or more");
}

}  // namespace moe
