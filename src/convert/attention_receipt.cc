#include "convert/attention_receipt.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <variant>

#include "common/error.h"
#include "convert/receipt_sums.h"
#include "model/moe/router.h"
#include "model/norm.h"

// t tokens of a row, D hidden, E experts that are chosen from, K of them.
namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kSums = 7;

/// Over all tokens and slots, the share of the tokens up to this one, of its sequence, that chose the expert too.
double visible_shares(const at::Tensor& expert_ids_tK, int64_t experts, const std::vector<int64_t>& cu_seqlens) {
  const at::Tensor ids = expert_ids_tK.contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  double sum = 0;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    std::vector<int64_t> seen(experts, 0);
    for (int64_t t = cu_seqlens[s]; t < cu_seqlens[s + 1]; ++t) {
      for (int64_t k = 0; k < ids.size(1); ++k)
        sum += static_cast<double>(++seen[*id++]) / static_cast<double>(t - cu_seqlens[s] + 1);
    }
  }
  return sum;
}

}  // namespace

AttentionReceipt::AttentionReceipt(const ModelConfig& converted, int64_t rows)
    : config_(converted), inputs_tD_(rows), outputs_tD_(rows) {
  for (int64_t layer = 0; layer < converted.num_layers; ++layer) {
    if (converted.has_attention_experts(layer)) layers_.push_back({layer, std::vector<OfRow>(rows), {}});
  }
}

AttentionReceipt::LayerSums* AttentionReceipt::sums_of(int64_t layer) {
  const auto found =
      std::find_if(layers_.begin(), layers_.end(), [&](const auto& sums) { return sums.layer == layer; });
  return found == layers_.end() ? nullptr : &*found;
}

void AttentionReceipt::add_converted(const Layer& layer, int64_t row, const at::Tensor& x_tD,
                                     const at::Tensor& attended_tD, const RouterStats& routed,
                                     const std::vector<int64_t>& cu_seqlens) {
  LayerSums* const of_layer = sums_of(layer.index);
  if (of_layer == nullptr) return;
  const MoeAttention& experts = std::get<MoeAttention>(layer.attention);
  inputs_tD_[row] = normalize(config_, layer.input_norm, x_tD);
  outputs_tD_[row] = attended_tD - x_tD;
  const at::Tensor logits_tE =
      router_logits(inputs_tD_[row], experts.weights.router, experts.options.router.gate).to(at::kDouble);
  OfRow& sums = of_layer->rows[row];
  sums.logits = sum_one_by_one(logits_tE.sum(1));
  sums.logit_squares = sum_of_squares(logits_tE);
  sums.pairs = static_cast<double>(logits_tE.numel());
  const at::Tensor& ids_tK = routed.routing.expert_ids_TK;
  sums.slots = static_cast<double>(ids_tK.numel());
  sums.visible = experts.options.sees_all_tokens ? sums.slots : visible_shares(ids_tK, logits_tE.size(1), cu_seqlens);
  at::Tensor& load = of_layer->load_E;
  load = load.defined() ? load + routed.tokens_per_expert_E : routed.tokens_per_expert_E;
}

void AttentionReceipt::add_dense(const Layer& layer, int64_t row, const LayerContext& context) {
  LayerSums* const of_layer = sums_of(layer.index);
  if (of_layer == nullptr) return;
  const at::Tensor wanted = attention(context.config, std::get<AttentionWeights>(layer.attention), context.rope,
                                      inputs_tD_[row], context.cu_seqlens)
                                .to(at::kDouble);
  OfRow& sums = of_layer->rows[row];
  sums.wanted = sum_of_squares(wanted);
  sums.error = sum_of_squares(wanted - outputs_tD_[row]);
}

std::vector<double> AttentionReceipt::sums_of_row(int64_t row) const {
  std::vector<double> values;
  for (const LayerSums& layer : layers_) {
    const OfRow& of = layer.rows[row];
    values.insert(values.end(), {of.error, of.wanted, of.logits, of.logit_squares, of.pairs, of.visible, of.slots});
  }
  return values;
}

int64_t AttentionReceipt::count() const {
  return kSums * static_cast<int64_t>(layers_.size());
}

json AttentionReceipt::layer_report(LayerSums& layer, const double* sums, Communicator& world) {
  const int64_t experts = config_.moe->attention->num_routed();
  if (!layer.load_E.defined()) layer.load_E = at::zeros({experts}, at::kLong);  // no row on this rank
  json report = load_report(layer.load_E, concat("load of attention in layer ", layer.layer, " in the receipt"), world);
  report["layer"] = layer.layer;
  report["relative_attention_error"] = share_of(sums[0], sums[1]);
  report["router_logit_deviation"] = deviation_of(sums[2], sums[3], sums[4]);
  report["visible_keys"] = share_of(sums[5], sums[6]);
  return report;
}

json AttentionReceipt::describe(const double* sums, Communicator& world) {
  const AttentionExperts& attention = *config_.moe->attention;
  json receipt = {{"experts", attention.top_k}, {"always_on", attention.always_on}, {"layers", json::array()}};
  int64_t dead = 0;
  for (LayerSums& layer : layers_) {
    receipt["layers"].push_back(layer_report(layer, sums, world));
    const json& counts = receipt["layers"].back()["expert_load"];
    dead += std::count(counts.begin(), counts.end(), json(0));
    sums += kSums;
  }
  receipt["dead_experts"] = dead;
  return receipt;
}

}  // namespace moe
