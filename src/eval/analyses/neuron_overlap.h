#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// How far the experts of one layer are made of the same neurons of the dense FFN.
/// Source: LLaMA-MoE (arXiv:2406.16554), the neuron overlap of its sharing splits.
struct NeuronOverlap {
  std::vector<std::vector<double>> jaccard;  ///< [experts][experts]: |A and B| / |A or B|
  double mean_jaccard = 0;                   ///< of the pairs of different experts; 0 for one expert
  int64_t distinct = 0;                      ///< neurons that some expert has
  /// Sum over the neurons of how many experts more than one have them, over the sizes of all experts: 0 where they are
  /// disjoint, (N - 1) / N where all N are the same.
  double duplicate_rate = 0;
  std::vector<int64_t> times;                ///< [experts]: neurons that exactly 1, 2, .. experts have
  std::vector<std::vector<int64_t>> chosen;  ///< [experts][experts]: in row r, those of them that each expert has
};

/// Of the neurons of each expert.
NeuronOverlap neuron_overlap_of(const std::vector<std::vector<int32_t>>& experts);

}  // namespace moe
