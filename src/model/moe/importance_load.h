#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "model/moe/moe_layer.h"

// T tokens, E experts, K top-k, L MoE layers.
namespace moe {

/// What the smooth load takes for the threshold of an expert that was chosen: the K + 1st of the noisy logits, and of
/// one that was not the Kth.
enum class LoadEstimator {
  kExact,        ///< chosen is whose noisy logit is above the K + 1st: loads sum to K T on average
  kReferenceV1,  ///< whose noise alone is: what the published code does
};
LoadEstimator parse_load_estimator(const std::string& name);

/// Sums over this rank's tokens, [2, L, E] double: the importance of an expert, the sum of its weights; its load, with
/// learned noise the sum of its chances to be chosen were its noise drawn again, else the tokens that chose it, which
/// have no gradient. `local` has RouterStats::routing.
/// Source   LLaMA-MoE v1, arXiv:2406.16554, with Shazeer et al. 2017, arXiv:1701.06538, appendix A.
at::Tensor importance_and_load(const std::vector<RouterStats>& local, LoadEstimator estimator);

/// The squared variations of importance and load, summed over both and over layers: CV^2 is the unbiased variance over
/// (the squared mean + 1e-10), 0 of one expert. `local`: of this rank; `all`: their sum over the ranks. The value is of
/// all ranks' tokens; the gradient is what this rank's add to it, so that those of the ranks sum.
at::Tensor importance_load_loss(const at::Tensor& local_2LE, const at::Tensor& all_2LE);

}  // namespace moe
