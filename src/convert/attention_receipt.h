#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/communicator.h"
#include "model/layer.h"
#include "model/layer_context.h"
#include "model/model_config.h"
#include "model/moe/router_stats.h"

namespace moe {

/// What the step-0 receipt (convert/step0_receipt.h) says of layers whose attention became experts: fed by its pass,
/// row of text by row, layers in order, the converted layer before the dense one.
///
///   experts, always_on   that a token chooses, and that it uses besides
///   layers               of each layer with attention experts: relative_attention_error (sum |dense attention(x) -
///                        experts(x)|^2 / sum |dense attention(x)|^2 on the converted stream), router_logit_deviation,
///                        expert_load (pairs of token and slot, of the experts that are chosen), least_load,
///                        greatest_load (over an even share), visible_keys (share of the tokens before it, itself
///                        included, that a token sees in an expert that it chose; mean over tokens and slots)
///   dead_experts         without a token, of all layers
class AttentionReceipt {
 public:
  /// `rows` of this rank.
  AttentionReceipt(const ModelConfig& converted, int64_t rows);

  /// Whether anything is measured.
  bool is_empty() const { return layers_.empty(); }

  /// Row `row` through a converted layer: `attended_tD` is the stream `x_tD` with the attention added, `routed` has how
  /// each token was routed. Nothing where the layer's attention is dense.
  void add_converted(const Layer& layer, int64_t row, const at::Tensor& x_tD, const at::Tensor& attended_tD,
                     const RouterStats& routed, const std::vector<int64_t>& cu_seqlens);
  /// The dense layer on what the converted one read. `context`: of the row, with the dense model's config.
  void add_dense(const Layer& layer, int64_t row, const LayerContext& context);

  /// What row `row` adds to all sums, and how many they are.
  std::vector<double> sums_of_row(int64_t row) const;
  int64_t count() const;

  /// From the sums of all rows of the world. Collective.
  nlohmann::json describe(const double* sums, Communicator& world);

 private:
  /// What one row of text adds, of one layer.
  struct OfRow {
    double error = 0, wanted = 0;                     ///< squares
    double logits = 0, logit_squares = 0, pairs = 0;  ///< of the router; (token, expert) pairs
    double visible = 0, slots = 0;                    ///< shares of visible keys; (token, slot) pairs
  };
  struct LayerSums {
    int64_t layer = 0;
    std::vector<OfRow> rows;
    at::Tensor load_E;  ///< undefined where nothing was routed
  };
  LayerSums* sums_of(int64_t layer);
  nlohmann::json layer_report(LayerSums& layer, const double* sums, Communicator& world);

  const ModelConfig& config_;
  std::vector<LayerSums> layers_;
  std::vector<at::Tensor> inputs_tD_, outputs_tD_;  ///< [rows]: of the layer at hand
};

}  // namespace moe
