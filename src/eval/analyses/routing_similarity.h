#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// Euclidean distance of two loads [experts], each with its least as 0 and its greatest as 1: 0 for alike ones.
/// Source: LLaMA-MoE (arXiv:2406.16554) and LLaMA-MoE v2 (arXiv:2411.15708), routing difference between data sets.
double load_difference(const std::vector<double>& a, const std::vector<double>& b);

/// 1 less the Euclidean distance of two loads, each over its greatest: 1 for alike ones; below 0 for very unlike ones.
/// Source: LLaMA-MoE v2's code, the older similarity.
double load_similarity(const std::vector<double>& a, const std::vector<double>& b);

/// Cosine of the angle between two loads: 1 where they are multiples of each other, 0 where no expert has both or one
/// of them is empty.
/// Source: LLaMA-MoE's code, a variant of the routing difference.
double load_cosine(const std::vector<double>& a, const std::vector<double>& b);

/// Euclidean distance of two loads, each over its sum: 0 for alike ones, sqrt 2 where each has one expert of its own.
/// Source: the same.
double load_share_difference(const std::vector<double>& a, const std::vector<double>& b);

/// Mutual information of two choices over the geometric mean of their entropies, from how often each pair of experts
/// was chosen ([rows x columns], row-major): 0 where one tells nothing of the other, 1 where it tells all, whatever the
/// experts' numbers are. 0 where one of them is always the same.
double choice_similarity(const std::vector<int64_t>& pairs, int64_t rows, int64_t columns);

}  // namespace moe
