#include "convert/head_groups.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/divisors.h"
#include "common/error.h"
#include "common/rng.h"
#include "convert/balanced_kmeans.h"
#include "convert/head_agreement.h"

namespace moe {
namespace {

/// Of query heads that stand together by number: groups of `size` of `order`, each in the order of the layer. Every
/// query head brings the key-value head that it reads.
HeadGroups groups_in_order(const HeadGroupRequest& request, const std::vector<int32_t>& order) {
  const auto size = static_cast<size_t>(query_heads_of_expert(request.config, request.spec));
  const auto kv_heads = kv_heads_of_expert(request.config, request.spec);
  const auto heads_per_kv = static_cast<int32_t>(request.config.num_heads / request.config.num_kv_heads);
  HeadGroups groups;
  for (size_t first = 0; first < order.size(); first += size) {
    std::vector<int32_t> query(order.begin() + static_cast<int64_t>(first),
                               order.begin() + static_cast<int64_t>(first + size));
    std::sort(query.begin(), query.end());
    std::vector<int32_t> kv;
    const auto step = static_cast<int64_t>(size) / kv_heads;
    for (int64_t i = 0; i < static_cast<int64_t>(size); i += step) kv.push_back(query[i] / heads_per_kv);
    groups.query.push_back(std::move(query));
    groups.kv.push_back(std::move(kv));
  }
  return groups;
}

/// Whole groups that share a key-value head, or slices of one, which copy it.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), section 2.
HeadGroups contiguous(const HeadGroupRequest& request, Communicator& /*world*/) {
  std::vector<int32_t> order(request.config.num_heads);
  std::iota(order.begin(), order.end(), 0);
  return groups_in_order(request, order);
}

HeadGroups random(const HeadGroupRequest& request, Communicator& /*world*/) {
  const std::vector<int64_t> drawn = random_permutation(
      request.config.num_heads, CounterRng(request.seed, kStreamHeadGroups, static_cast<uint32_t>(request.layer)));
  return groups_in_order(request, {drawn.begin(), drawn.end()});
}

/// Equal clusters of heads that agree with the other heads alike.
HeadGroups clustered(const HeadGroupRequest& request, Communicator& world) {
  const at::Tensor agreement_HH =
      head_agreement(request.config, *request.weights, *request.features, *request.context, request.layer, world);
  const int64_t experts = request.spec.experts();
  const KMeansResult found = balanced_kmeans(agreement_HH.to(at::kFloat),
                                             {.clusters = experts,
                                              .seed = request.seed,
                                              .stream = kStreamHeadGroups,
                                              .substream = static_cast<uint32_t>(request.layer),
                                              .is_spherical = false},
                                             world);
  std::vector<int32_t> order(request.config.num_heads);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return found.cluster_of[a] < found.cluster_of[b]; });
  return groups_in_order(request, order);
}

}  // namespace

const Registry<HeadGrouping>& head_groupings() {
  static const Registry<HeadGrouping> groupings(
      "grouping of heads",
      {
          {"contiguous",
           {.summary = "heads as they lie: those of one or more key-value heads, or slices of one (LLaMA-MoE v2)",
            .group = contiguous}},
          {"random", {.summary = "a random permutation of the query heads", .copies_kv = true, .group = random}},
          {"clustered",
           {.summary = "balanced clusters of query heads by how their outputs agree on the calibration text",
            .needs_text = true,
            .copies_kv = true,
            .group = clustered}},
      });
  return groupings;
}

std::string head_group_problem(const ModelConfig& config, const v1::AttentionExpertsSpec& spec) {
  const int64_t heads = config.num_heads, kv = config.num_kv_heads, experts = spec.experts();
  if (heads % experts != 0) {
    return concat("attention.experts ", experts, " does not divide the ", heads, " query heads; use one of ",
                  divisors_of(heads));
  }
  if (head_groupings().at(spec.grouping()).copies_kv || kv % experts == 0 || experts % kv == 0) return "";
  std::string possible;
  for (int64_t count = 1; count <= heads; ++count) {
    if (heads % count == 0 && (kv % count == 0 || count % kv == 0))
      possible += (possible.empty() ? "" : ", ") + std::to_string(count);
  }
  return concat("attention.experts ", experts, " neither divides the ", kv,
                " key-value heads nor is a multiple of "
                "them, which attention.grouping contiguous needs; use one of ",
                possible);
}

int64_t query_heads_of_expert(const ModelConfig& config, const v1::AttentionExpertsSpec& spec) {
  return config.num_heads / spec.experts();
}

int64_t kv_heads_of_expert(const ModelConfig& config, const v1::AttentionExpertsSpec& spec) {
  if (config.num_kv_heads == 1) return 1;
  return head_groupings().at(spec.grouping()).copies_kv ? query_heads_of_expert(config, spec)
                                                        : std::max<int64_t>(1, config.num_kv_heads / spec.experts());
}

}  // namespace moe
