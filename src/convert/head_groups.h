#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "common/registry.h"
#include "convert/layer_inputs.h"
#include "model/attention.h"
#include "model/layer_context.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"

/// Which query heads of a layer's attention stand together as experts, and which key-value heads they read.
namespace moe {

/// By expert. Query head i of an expert reads its key-value head i / (query heads / key-value heads).
struct HeadGroups {
  std::vector<std::vector<int32_t>> query;  ///< every query head of the layer stands in one
  std::vector<std::vector<int32_t>> kv;     ///< those that several experts read are copied
};

/// What a grouping may look at.
struct HeadGroupRequest {
  const ModelConfig& config;  ///< of the dense model
  const v1::AttentionExpertsSpec& spec;
  int64_t layer = 0;
  uint64_t seed = 0;
  const AttentionWeights* weights = nullptr;      ///< in float; where the grouping needs text
  const CalibrationFeatures* features = nullptr;  ///< the inputs of attention in the dense stream; the same
  const LayerContext* context = nullptr;          ///< of the text; the same
};

/// One way to group. The same groups on every rank and at any number of them.
struct HeadGrouping {
  std::string summary;
  bool needs_text = false;
  bool copies_kv = false;  ///< each query head brings a key-value head of its own
  std::function<HeadGroups(const HeadGroupRequest&, Communicator& world)> group;  ///< collective
};

/// THE list: the names of attention.grouping.
const Registry<HeadGrouping>& head_groupings();

/// Why attention of these sizes cannot stand in so many experts, as the end of an error; empty if it can.
std::string head_group_problem(const ModelConfig& config, const v1::AttentionExpertsSpec& spec);

/// Heads of one expert.
int64_t query_heads_of_expert(const ModelConfig& config, const v1::AttentionExpertsSpec& spec);
int64_t kv_heads_of_expert(const ModelConfig& config, const v1::AttentionExpertsSpec& spec);

}  // namespace moe
