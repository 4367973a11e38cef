#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "convert/conversion_method.h"

/// What the methods that split by importance have in common.
namespace moe {

/// `clusters`: how tokens are grouped, "text" or "router".
MethodOption clusters_option(const std::string& fallback);
/// `normalise`: how the scores of groups are compared (comparable_scores).
MethodOption normalise_option(const std::string& fallback, const std::string& published = "");

/// What importance is of (ImportanceMeasure), after the method's own options.
std::vector<MethodOption> with_measure_options(std::vector<MethodOption> options, const std::string& published_loss);
/// `criterion` of plan_greedy: whether the largest or the least scores are given away first.
MethodOption criterion_option();

/// As many groups as there are routed experts, by the option `clusters`.
TokenGroups group_for_experts(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD, Communicator& world);
/// A group more for each shared expert.
TokenGroups group_for_all_experts(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD,
                                  Communicator& world);

/// The groups_name of a method with these groups.
std::string groups_for_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options);
std::string groups_for_all_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options);

/// The text_problem of a method with these groups.
std::string text_problem_for_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options, const TextSize& text);
std::string text_problem_for_all_experts(const v1::FfnExpertsSpec& ffn, const MethodOptions& options,
                                         const TextSize& text);

/// The router.init that has a row for each group of group_for_experts; empty where those are of documents.
std::string router_of_groups(const MethodOptions& options);

/// Scores by the option `normalise`. [groups, F]
at::Tensor scores_by_option(const LayerInputs& inputs);

/// For methods that give every neuron to the expert of the group that it is most important to, or least by `criterion`.
LayerPlan plan_greedy(const LayerInputs& inputs, Communicator& world);

/// Why these sizes leave a method that shares neurons without a shared part; empty if they do not.
std::string shared_problem(const v1::FfnExpertsSpec& ffn);

}  // namespace moe
