#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "convert/calibration_text.h"

namespace moe {

struct ReceiptRequest {
  const ModelDirectory& dense;
  const ModelDirectory& converted;  ///< as it was written
  const CalibrationText& text;
  /// The parts of a layer sum to the dense FFN: with every expert at weight one and scale one, the router bypassed, the
  /// logits are the dense ones, and how far they are off is measured. Otherwise "all experts" means what the model's
  /// own routers and scales make of them, attention's too, whose experts always sum to the dense one.
  bool is_partition = true;
  std::function<void(int64_t layers_done)> progress{};  ///< collective; after each layer, the last with the logits
};

/// What a conversion made, before any training: the written model against the dense one on the receipt's rows of text,
/// with the experts that its router chooses and with all of them. Three streams go through the layers, one layer in
/// memory at a time; their logits are compared a part of the vocabulary at a time. In float, sums in double and in one
/// order (RowSums): the same bits at any number of ranks, if the models are the same. Collective.
///
///   tokens, targets, held_out    what it was measured on; held_out: nothing was fitted to it
///   dense                        loss (nats per target), perplexity
///   chosen, all                  experts of a token, loss, perplexity, kl_divergence (dense || this, nats per token)
///   all.weights                  "one" (of a partition) or "router"
///   all.largest_logit_difference,
///       all.relative_logit_difference   of a partition: max |difference|, and over max |dense logit|
///   layers                       of each mixture: relative_ffn_error (sum |dense FFN(x) - FFN(x)|^2 / sum |dense
///                                FFN(x)|^2 on the converted stream), router_logit_deviation, expert_load (pairs of
///                                token and slot), least_load and greatest_load (over an even share)
///   dead_experts                 without a token, of all layers
///   attention                    where attention has experts: AttentionReceipt
///
/// Cost     per token three layers and three heads, a dense FFN, and all experts; memory: a layer in float and five
///          hidden states of each token of this rank.
nlohmann::json step0_receipt(const ReceiptRequest& request, Communicator& world);

}  // namespace moe
