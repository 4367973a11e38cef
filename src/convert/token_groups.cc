#include "convert/token_groups.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/rng.h"
#include "convert/balanced_kmeans.h"
#include "convert/feature_clusters.h"
#include "convert/router_init.h"
#include "model/ops.h"

namespace moe {
namespace {

/// A row per document of this rank: the mean of its tokens' directions, summed in their order. [documents, D] float
at::Tensor document_rows(const at::Tensor& hidden_TD, const std::vector<int64_t>& cu_seqlens) {
  const at::Tensor hidden = hidden_TD.to(at::kFloat).contiguous();
  const int64_t width = hidden.size(1), documents = static_cast<int64_t>(cu_seqlens.size()) - 1;
  at::Tensor rows = at::empty({documents, width}, at::kFloat);
  std::vector<double> sum(width);
  for (int64_t document = 0; document < documents; ++document) {
    std::fill(sum.begin(), sum.end(), 0);
    for (int64_t token = cu_seqlens[document]; token < cu_seqlens[document + 1]; ++token) {
      const float* state = hidden.const_data_ptr<float>() + token * width;
      double squared = 0;
      for (int64_t d = 0; d < width; ++d) squared += static_cast<double>(state[d]) * state[d];
      const double length = std::max(std::sqrt(squared), 1e-12);
      for (int64_t d = 0; d < width; ++d) sum[d] += state[d] / length;
    }
    const auto tokens = static_cast<double>(cu_seqlens[document + 1] - cu_seqlens[document]);
    float* row = rows.mutable_data_ptr<float>() + document * width;
    for (int64_t d = 0; d < width; ++d) row[d] = static_cast<float>(sum[d] / tokens);
  }
  return rows;
}

/// Place of the first of the largest values of each row.
at::Tensor first_largest(const at::Tensor& values_TG) {
  at::Tensor places_T = at::empty({values_TG.size(0)}, at::kLong);
  const float* row = values_TG.const_data_ptr<float>();
  auto* const place = places_T.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < values_TG.size(0); ++t, row += values_TG.size(1))
    place[t] = std::max_element(row, row + values_TG.size(1)) - row;
  return places_T;
}

}  // namespace

std::string too_few_documents(const std::string& method, int64_t documents, int64_t groups) {
  if (documents >= groups) return "";
  return concat("ffn.method ", method, " groups the documents of the calibration text, and there are ", documents,
                " for ", groups,
                " groups; give more text or raise calibration.tokens, or set ffn.options.clusters: router");
}

TokenGroups group_by_text(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD, int64_t groups,
                          Communicator& world) {
  const std::vector<int64_t>& cu_seqlens = inputs.features->cu_seqlens;
  const at::Tensor mine = document_rows(hidden_TD[hidden_TD.size() / 2], cu_seqlens),
                   documents_of_ranks = world.all_gather(at::tensor({mine.size(0)}, at::kLong), "documents of ranks"),
                   all = world.all_gather(mine, "documents to cluster");
  if (const std::string problem = too_few_documents(inputs.spec.ffn().method(), all.size(0), groups); !problem.empty())
    throw_agreed<InvalidArgument>("convert: " + problem);
  const KMeansResult found = balanced_kmeans(
      all, {.clusters = groups, .seed = inputs.seed, .stream = kStreamDocumentClusters, .jitter = kAnySize}, world);
  const int64_t first = documents_of_ranks.narrow(0, 0, world.rank()).sum().item<int64_t>();
  TokenGroups by_text{.count = groups, .ids_T = at::empty({cu_seqlens.back()}, at::kLong), .is_of_all_layers = true};
  for (size_t document = 0; document + 1 < cu_seqlens.size(); ++document) {
    by_text.ids_T.slice(0, cu_seqlens[document], cu_seqlens[document + 1])
        .fill_(found.cluster_of[first + static_cast<int64_t>(document)]);
  }
  return by_text;
}

TokenGroups group_by_router(const LayerInputs& inputs, int64_t groups, Communicator& world) {
  const CalibrationFeatures& features = inputs.features->ffn_inputs;
  TokenClustering how = token_clustering(inputs.spec);
  how.clusters = groups;
  how.seed = inputs.seed;
  how.layer = inputs.layer;
  const at::Tensor rows_GD = feature_centroids(features, how, "ffn.method " + inputs.spec.ffn().method(), world);
  const at::Tensor products_TG = ops::linear(features.local_TD.to(at::kFloat), rows_GD).contiguous();
  return {.count = groups, .ids_T = first_largest(products_TG), .rows_GD = rows_GD};
}

}  // namespace moe
