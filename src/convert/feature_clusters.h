#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "convert/balanced_kmeans.h"
#include "convert/layer_inputs.h"

namespace moe {

/// Why so few tokens cannot be clustered, as the end of an error; empty if they can. `wanted_by` begins it.
std::string too_few_tokens(const std::string& wanted_by, int64_t tokens, int64_t clusters);

/// How tokens are clustered.
struct TokenClustering {
  int64_t clusters = 0;
  uint64_t seed = 0;
  int64_t layer = 0;
  KMeansDistance distance = KMeansDistance::kSquared;  ///< kCosine: of tokens less their mean
  double jitter = 0;                                   ///< of the clusters' sizes: KMeansOptions
  int64_t restarts = 3;
};

/// A layer's FFN inputs of evenly spread tokens of all ranks, 8192 at most, in the order of the text. Collective. [n,
/// D] float
at::Tensor spread_features(const CalibrationFeatures& features, Communicator& world);

/// Centroids of balanced clusters of a layer's FFN inputs, by their least tokens: the means of the members as they are,
/// neither centred nor of one length. The same bits for the same seed and layer, on every rank and at any number of
/// them. Looks at spread_features() alone. Collective. [clusters, D] float
/// Source   LLaMA-MoE v2 (hidden_feature_clustering.py); the assignment is exact, by default of squared distances.
/// Throws   InvalidArgument on every rank if there are fewer tokens than clusters; `wanted_by` begins the message.
at::Tensor feature_centroids(const CalibrationFeatures& features, const TokenClustering& how,
                             const std::string& wanted_by, Communicator& world);

}  // namespace moe
