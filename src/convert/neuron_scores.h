#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "convert/layer_inputs.h"

// F neurons, G groups of tokens. Scores are double.
namespace moe {

/// All neurons, by falling score; of equal ones the lower first.
std::vector<int32_t> by_falling_score(const at::Tensor& scores_F);

/// The `count` first of them, in ascending order.
std::vector<int32_t> best_neurons(const at::Tensor& scores_F, int64_t count);

/// Spearman's: the correlation of the neurons' ranks in two measurements of [G, F] scores, mean over the groups in
/// which both have more than one value; NaN where there is no such group. Equal scores share their mean rank.
double rank_correlation(const at::Tensor& a_GF, const at::Tensor& b_GF);

/// Importance in the form in which groups are compared. [G, F]
///   none             mean over a group's tokens, 0 for a group without any: the papers'. Groups with larger gradients
///                    come first wherever groups compete.
///   per_cluster_sum  divided by the absolute value of the group's sum over all neurons
///   rank             F for the best neuron of a group, 1 for the worst
at::Tensor comparable_scores(const Importance& importance, const std::string& normalise);

}  // namespace moe
