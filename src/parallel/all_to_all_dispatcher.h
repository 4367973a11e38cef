#pragma once

#include <cstdint>

#include "model/moe/token_dispatcher.h"
#include "parallel/mesh.h"

// T tokens of this rank, D hidden, K top-k, S rows sent, N rows received, R rows in expert order, M most slots of one
// received row.
namespace moe {

/// How much travelled, for tests.
struct DispatchTraffic {
  int64_t rows_sent = 0;  ///< one per (token, destination rank), oneself included
  int64_t rows_received = 0;
};

/// Dropless expert parallelism by all-to-all: one row per (token, destination rank), even when several of its experts
/// live there; ids and weights travel along. The owner sums its experts' weighted outputs of a row before the row goes
/// back, and the source sums its rows per token in rank order. Backward reuses the forward's plan. A rank without rows
/// still joins every collective, in forward and backward.
///
/// Tags travel beside the ids, so that an owner has whole sequences of every source, told apart by source.
///
/// Cost     per layer and rank: forward 2 and backward 2 exchanges of S x D values, and one of weights each way; of
///          tagged tokens forward one of S x A more.
class AllToAllDispatcher final : public TokenDispatcher {
 public:
  explicit AllToAllDispatcher(Mesh& mesh) : mesh_(mesh) {}

  ExpertRange owned_experts(int64_t num_experts) const override { return mesh_.owned_experts(num_experts); }
  DispatchedTokens dispatch(const RoutedTokens& tokens) override;
  at::Tensor combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched) override;

  /// Of all dispatches so far.
  const DispatchTraffic& traffic() const { return traffic_; }

 private:
  Mesh& mesh_;
  DispatchTraffic traffic_;
};

}  // namespace moe
