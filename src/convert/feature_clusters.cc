#include "convert/feature_clusters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

constexpr int64_t kMostTokens = 8192;

/// Rows less their mean, which is that of one cluster of all.
at::Tensor centred(const at::Tensor& rows_nD) {
  return rows_nD - cluster_means(rows_nD, std::vector<int32_t>(rows_nD.size(0), 0), 1);
}

}  // namespace

at::Tensor spread_features(const CalibrationFeatures& features, Communicator& world) {
  const int64_t wanted = std::min(kMostTokens, features.total);
  std::vector<int64_t> mine;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t local = i * features.total / wanted - features.first;
    if (local >= 0 && local < features.local_TD.size(0)) mine.push_back(local);
  }
  return world.all_gather(features.local_TD.to(at::kFloat).index_select(0, at::tensor(mine, at::kLong)),
                          "inputs to cluster");
}

std::string too_few_tokens(const std::string& wanted_by, int64_t tokens, int64_t clusters) {
  if (tokens >= clusters) return "";
  return concat(wanted_by, " clusters the calibration tokens, and there are ", tokens, " for experts ", clusters,
                "; give more text or raise calibration.tokens");
}

at::Tensor feature_centroids(const CalibrationFeatures& features, const TokenClustering& how,
                             const std::string& wanted_by, Communicator& world) {
  if (const std::string problem = too_few_tokens(wanted_by, features.total, how.clusters); !problem.empty())
    throw_agreed<InvalidArgument>("convert: " + problem);
  const at::Tensor tokens_nD = spread_features(features, world);
  const bool is_cosine = how.distance == KMeansDistance::kCosine;
  const KMeansResult found = balanced_kmeans(is_cosine ? centred(tokens_nD) : tokens_nD,
                                             {.clusters = how.clusters,
                                              .seed = how.seed,
                                              .stream = kStreamTokenClusters,
                                              .substream = static_cast<uint32_t>(how.layer),
                                              .restarts = how.restarts,
                                              .jitter = how.jitter,
                                              .is_spherical = is_cosine,
                                              .distance = how.distance},
                                             world);
  return cluster_means(tokens_nD, found.cluster_of, how.clusters);
}

}  // namespace moe
