#include "convert/planned_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

/// Rows, or columns of the output projection, of these heads, one head after the other.
IndexList rows_of_heads(const std::vector<int32_t>& heads, int64_t head_dim) {
  std::vector<int32_t> rows;
  for (const int32_t head : heads) {
    for (int64_t i = 0; i < head_dim; ++i) rows.push_back(static_cast<int32_t>(head * head_dim + i));
  }
  return index_list(std::move(rows));
}

void check_groups(const HeadGroups& groups, const ModelConfig& config, int64_t layer) {
  const auto heads_per_kv = static_cast<int32_t>(config.num_heads / config.num_kv_heads);
  std::vector<int> uses(config.num_heads, 0);
  MOE_CHECK(groups.query.size() == groups.kv.size(), "groups of heads of layer ", layer);
  for (size_t e = 0; e < groups.query.size(); ++e) {
    const std::vector<int32_t>&query = groups.query[e], &kv = groups.kv[e];
    MOE_CHECK(!kv.empty() && query.size() % kv.size() == 0, "expert ", e, " of layer ", layer, " has ", query.size(),
              " query heads on ", kv.size(), " key-value heads");
    for (size_t i = 0; i < query.size(); ++i) {
      ++uses.at(query[i]);
      MOE_CHECK(kv[i / (query.size() / kv.size())] == query[i] / heads_per_kv, "query head ", query[i], " of layer ",
                layer, " is not with its key-value head");
    }
  }
  MOE_CHECK(std::all_of(uses.begin(), uses.end(), [](int count) { return count == 1; }),
            "groups of heads take every query head once (layer ", layer, ")");
}

/// int32 [experts, heads of an expert]
at::Tensor head_table(const std::vector<std::vector<int32_t>>& heads) {
  std::vector<at::Tensor> rows;
  for (const std::vector<int32_t>& of_expert : heads) rows.push_back(at::tensor(of_expert, at::kInt));
  return at::stack(rows);
}

}  // namespace

PlannedAttention::PlannedAttention(HeadGroups groups, const ModelConfig& config, int64_t layer)
    : groups_(std::move(groups)), config_(config), layer_(layer) {
  check_groups(groups_, config, layer);
  for (int64_t e = 0; e < experts(); ++e) {
    for (const TensorPart part : {TensorPart::kQuery, TensorPart::kKey, TensorPart::kValue}) {
      const std::vector<int32_t>& heads = part == TensorPart::kQuery ? groups_.query[e] : groups_.kv[e];
      const TensorId id{part, layer, e};
      add(id, heads);
      if (config.qkv_bias) add(id.bias(), heads);
    }
    add({TensorPart::kAttentionOut, layer, e}, groups_.query[e]);
  }
}

void PlannedAttention::add(const TensorId& id, const std::vector<int32_t>& heads) {
  const bool is_out = id.part == TensorPart::kAttentionOut;
  const int64_t hidden = config_.hidden_size, rows = static_cast<int64_t>(heads.size()) * config_.head_dim;
  TensorId source = id;
  source.expert = kNoExpert;
  PiecedTensor tensor{.name = tensor_name(config_, id), .shape = {rows, hidden}};
  if (id.is_bias) tensor.shape = {rows};
  if (is_out) tensor.shape = {hidden, rows};
  tensor.pieces.push_back(
      {.source = tensor_name(config_, source), .dim = is_out ? 1 : 0, .taken = rows_of_heads(heads, config_.head_dim)});
  tensors_.emplace(tensor.name, std::move(tensor));
}

at::Tensor PlannedAttention::tensor(const std::string& name, at::ScalarType type,
                                    const PlannedLayer::Models& models) const {
  TensorAssembly assembly("convert", {[&](const TensorPiece& piece) { return models(piece.model, piece.source); }},
                          TensorAssembly::Rounding::kNotMeasured);
  return assembly.assemble(tensors_.at(name), type);
}

at::Tensor PlannedAttention::expert_tensor(const TensorId& id, const PlannedLayer::Models& models) const {
  return tensor(tensor_name(config_, id), at::kFloat, models);
}

at::Tensor PlannedAttention::parameter(const TensorId& id, const PlannedLayer::Models& models) const {
  if (id.expert != kStack) return models(0, tensor_name(config_, id));
  std::vector<at::Tensor> of_experts;
  for (int64_t e = 0; e < experts(); ++e) {
    if (id.part != TensorPart::kQueryKeyValue) {
      of_experts.push_back(expert_tensor({id.part, layer_, e, id.is_bias}, models));
      continue;
    }
    std::vector<at::Tensor> rows;
    for (const TensorPart part : {TensorPart::kQuery, TensorPart::kKey, TensorPart::kValue})
      rows.push_back(expert_tensor({part, layer_, e, id.is_bias}, models));
    of_experts.push_back(at::cat(rows));
  }
  return at::stack(of_experts);
}

at::Tensor PlannedAttention::query_heads() const {
  return head_table(groups_.query);
}

at::Tensor PlannedAttention::kv_heads() const {
  return head_table(groups_.kv);
}

}  // namespace moe
