#include "model/logit_comparison.h"

#include <cmath>
#include <limits>

#include "common/error.h"

namespace moe {
namespace {

/// The largest of `before` and the magnitudes; NaN once one is.
double largest_magnitude(double before, const at::Tensor& values) {
  if (values.numel() == 0) return before;
  const double largest = values.abs().max().item<double>();
  return std::isnan(before) || before >= largest ? before : largest;
}

}  // namespace

LogitComparison::LogitComparison(const at::Tensor& labels_T, size_t models) : labels_T_(labels_T), models_(models) {
  const at::TensorOptions options = labels_T.options().dtype(at::kDouble);
  for (Sums& sums : models_) {
    sums.largest_T = at::full(labels_T.sizes(), -std::numeric_limits<double>::infinity(), options);
    sums.total_T = at::zeros(labels_T.sizes(), options);
    sums.gap_T = at::zeros(labels_T.sizes(), options);
    sums.label_T = at::zeros(labels_T.sizes(), options);
  }
}

void LogitComparison::add(int64_t first, const std::vector<at::Tensor>& logits_Tn) {
  MOE_CHECK(logits_Tn.size() == models_.size(), "logits of ", logits_Tn.size(), " models of ", models_.size());
  const int64_t ids = logits_Tn.front().size(1);
  const at::Tensor place_T = labels_T_ - first,
                   is_here_T = place_T.ge(0).logical_and(place_T.lt(ids)).logical_and(labels_T_.ge(0)),
                   column_T1 = place_T.clamp(0, ids - 1).unsqueeze(1);
  const at::Tensor reference_Tn = logits_Tn.front().to(at::kDouble);
  at::Tensor weights_Tn, decay_T;  // of the reference
  for (size_t i = 0; i < models_.size(); ++i) {
    Sums& sums = models_[i];
    const at::Tensor logits = i == 0 ? reference_Tn : logits_Tn[i].to(at::kDouble);
    const at::Tensor largest_T = at::maximum(sums.largest_T, logits.amax(1)),
                     decay = (sums.largest_T - largest_T).exp_(), weights = (logits - largest_T.unsqueeze(1)).exp_();
    sums.total_T = sums.total_T * decay + weights.sum(1);
    sums.largest_T = largest_T;
    sums.label_T += at::where(is_here_T, logits.gather(1, column_T1).squeeze(1), at::zeros_like(sums.label_T));
    if (i == 0) {
      weights_Tn = weights;
      decay_T = decay;
      largest_logit_ = largest_magnitude(largest_logit_, logits);
      continue;
    }
    const at::Tensor gap = reference_Tn - logits;
    sums.gap_T = sums.gap_T * decay_T + (weights_Tn * gap).sum(1);
    sums.largest_difference = largest_magnitude(sums.largest_difference, gap);
  }
}

at::Tensor LogitComparison::log_sums_T(size_t model) const {
  const Sums& sums = models_.at(model);
  return sums.largest_T + sums.total_T.log();
}

at::Tensor LogitComparison::losses_T(size_t model) const {
  const at::Tensor losses = log_sums_T(model) - models_.at(model).label_T;
  return at::where(labels_T_.ge(0), losses, at::zeros_like(losses));
}

// sum p (log p - log q) = sum p (logit_p - logit_q) - (log_sum_p - log_sum_q)
at::Tensor LogitComparison::divergences_T(size_t model) const {
  return (models_.at(model).gap_T / models_.front().total_T - (log_sums_T(0) - log_sums_T(model))).clamp_min(0);
}

}  // namespace moe
