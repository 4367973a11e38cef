#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/owned_experts.h"

// T tokens, D hidden, E experts, K slots of a token, R rows in expert order on this rank, A values of a tag.
namespace moe {

/// What a dispatcher must remember from dispatch to combine (and its backward). Opaque to the layer.
class DispatchPlan {
 public:
  virtual ~DispatchPlan() = default;
};

/// What travels with the rows of tokens to experts that look at whole sequences; all undefined: nothing.
struct TokenTags {
  at::Tensor sequences_T{};  ///< int64, rising from 0: number of the token's sequence among this rank's
  at::Tensor values_TA{};    ///< what the experts must know of the token; no gradient
};

/// Tokens and where they go.
struct RoutedTokens {
  at::Tensor x_TD;        ///< differentiable
  at::Tensor ids_TK;      ///< int64 in [0, num_experts), no expert twice in a row
  at::Tensor weights_TK;  ///< differentiable
  int64_t num_experts = 0;
  std::string where;  ///< names the collectives: "layer 3"
  TokenTags tags{};
};

/// Token rows in the order of this rank's experts.
struct DispatchedTokens {
  at::Tensor rows_RD;          ///< rows of the first local expert, then of the second, ...
  at::Tensor rows_per_expert;  ///< int64 [local experts] on the rows' device, sums to R; zeros are legal
  std::shared_ptr<const DispatchPlan> plan;
  // Of tokens with tags:
  at::Tensor tag_values_RA{};
  /// [segments + 1], from 0 to R: a segment is the rows of one sequence in one expert, in the order of the sequence. A
  /// sequence has one in each expert that any of its tokens goes to.
  std::vector<int64_t> cu_seqlens{};
};

/// Sends token rows to the ranks that own their experts and brings the weighted sum back. Dropless. Differentiable: the
/// backward of each half reuses the forward's plan. The model declares it; `LocalDispatcher` (one rank) is here,
/// src/parallel has those that cross ranks. Holds no state between dispatch and combine.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;

  /// The experts of a layer with `num_experts` that this rank owns.
  virtual ExpertRange owned_experts(int64_t num_experts) const = 0;

  virtual DispatchedTokens dispatch(const RoutedTokens& tokens) = 0;

  /// y[t] = sum over k of weights[t, k] * out of expert ids[t, k] for token t.
  virtual at::Tensor combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched) = 0;
};

/// All experts on this rank: sort, no communication.
class LocalDispatcher final : public TokenDispatcher {
 public:
  ExpertRange owned_experts(int64_t num_experts) const override { return {0, num_experts}; }
  DispatchedTokens dispatch(const RoutedTokens& tokens) override;
  at::Tensor combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched) override;
};

}  // namespace moe
