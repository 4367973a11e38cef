#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

// T tokens, V vocabulary.
namespace moe {

/// What several models say of the same tokens: the loss of each, and how far each is from the first, which is the
/// reference. Takes the logits a part of the vocabulary at a time, so that [T, V] is never held. In double; a token's
/// numbers depend on its own logits and on how the vocabulary was cut. Without gradients.
class LogitComparison {
 public:
  /// labels_T: -100 where there is no target.
  LogitComparison(const at::Tensor& labels_T, size_t models);

  /// Logits of the ids [first, first + n): [T, n] of each model. Every id comes once, n is positive.
  void add(int64_t first, const std::vector<at::Tensor>& logits_Tn);

  /// -log p(label), 0 where there is no target. [T]
  at::Tensor losses_T(size_t model) const;
  /// KL(reference || model) over the vocabulary, in nats; at least 0. [T]
  at::Tensor divergences_T(size_t model) const;
  /// max |logit - the reference's| over tokens and vocabulary; 0 without tokens.
  double largest_difference(size_t model) const { return models_.at(model).largest_difference; }
  /// max |logit| of the reference.
  double largest_logit() const { return largest_logit_; }

 private:
  /// Sums over the ids so far, each weighted by exp(logit - largest).
  struct Sums {
    at::Tensor largest_T, total_T;
    at::Tensor gap_T;  ///< of the reference's weights: reference logit - logit
    at::Tensor label_T;
    double largest_difference = 0;
  };
  at::Tensor log_sums_T(size_t model) const;

  at::Tensor labels_T_;
  std::vector<Sums> models_;
  double largest_logit_ = 0;
};

}  // namespace moe
