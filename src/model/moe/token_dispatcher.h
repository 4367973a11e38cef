#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "model/owned_experts.h"

// T tokens, D hidden, E experts, K top-k, R rows in expert order on this rank.
namespace moe {

/// What a dispatcher must remember from dispatch to combine (and its backward). Opaque to the layer.
class DispatchPlan {
 public:
  virtual ~DispatchPlan() = default;
};

/// Token rows in the order of this rank's experts.
struct DispatchedTokens {
  at::Tensor rows_RD;          ///< rows of the first local expert, then of the second, ...
  at::Tensor rows_per_expert;  ///< int64 [local experts] on the rows' device, sums to R; zeros are legal
  std::shared_ptr<const DispatchPlan> plan;
};

/// Sends token rows to the ranks that own their experts and brings the weighted sum back. Dropless. Differentiable: the
/// backward of each half reuses the forward's plan. The model declares it; `LocalDispatcher` (one rank) is here,
/// src/parallel has those that cross ranks. Holds no state between dispatch and combine.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;

  /// The experts of a layer with `num_experts` that this rank owns.
  virtual ExpertRange owned_experts(int64_t num_experts) const = 0;

  /// `layer` names the collectives. x_TD and weights_TK are differentiable; ids_TK is int64 in [0, num_experts).
  virtual DispatchedTokens dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK, const at::Tensor& weights_TK,
                                    int64_t num_experts, int64_t layer) = 0;

  /// y[t] = sum over k of weights[t, k] * out of expert ids[t, k] for token t.
  virtual at::Tensor combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched, int64_t layer) = 0;
};

/// All experts on this rank: sort, no communication.
class LocalDispatcher final : public TokenDispatcher {
 public:
  ExpertRange owned_experts(int64_t num_experts) const override { return {0, num_experts}; }
  DispatchedTokens dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK, const at::Tensor& weights_TK,
                            int64_t num_experts, int64_t layer) override;
  at::Tensor combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched, int64_t layer) override;
};

}  // namespace moe
