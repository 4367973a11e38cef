#include "convert/head_agreement.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/row_sums.h"
#include "model/ops.h"

// T tokens of this rank, n of them at a time, H query heads, d of a head, D hidden.
namespace moe {
namespace {

constexpr int64_t kTokensAtATime = 256;

/// What the heads give before the output projection. [T, H d]
at::Tensor head_outputs(const ModelConfig& config, AttentionWeights weights, const at::Tensor& x_TD,
                        const LayerContext& context) {
  // Multiplying by ones and zeros changes no bit.
  weights.o = at::eye(config.num_heads * config.head_dim, at::kFloat);
  weights.o_bias = at::Tensor();
  return attention(config, weights, context.rope, x_TD, context.cu_seqlens);
}

/// <W_h o_h, W_g o_g> of each token and pair of heads. [n, H, H], double
at::Tensor products(const ModelConfig& config, const at::Tensor& o, const at::Tensor& outputs) {
  const int64_t heads = config.num_heads, d = config.head_dim;
  std::vector<at::Tensor> added_nD;
  for (int64_t h = 0; h < heads; ++h) {
    added_nD.push_back(ops::linear(outputs.narrow(1, h * d, d).contiguous(), o.narrow(1, h * d, d).contiguous()));
  }
  at::Tensor products_nHH = at::empty({outputs.size(0), heads, heads}, at::kDouble);
  for (int64_t h = 0; h < heads; ++h) {
    const at::Tensor of_h = added_nD[h].to(at::kDouble);
    for (int64_t g = 0; g <= h; ++g) {
      const at::Tensor product_n = (of_h * added_nD[g].to(at::kDouble)).sum(1);
      products_nHH.select(1, h).select(1, g).copy_(product_n);
      products_nHH.select(1, g).select(1, h).copy_(product_n);
    }
  }
  return products_nHH;
}

}  // namespace

at::Tensor head_agreement(const ModelConfig& config, const AttentionWeights& weights,
                          const CalibrationFeatures& features, const LayerContext& context, int64_t layer,
                          Communicator& world) {
  const at::Tensor outputs = head_outputs(config, weights, features.local_TD, context);
  RowSums sums;
  for (int64_t first = 0; first < outputs.size(0); first += kTokensAtATime) {
    const int64_t count = std::min(kTokensAtATime, outputs.size(0) - first);
    const at::Tensor products_nHH = products(config, weights.o, outputs.narrow(0, first, count));
    for (int64_t t = 0; t < count; ++t) sums.add(features.first + first + t, products_nHH[t]);
  }
  const at::Tensor sum_HH = sums.total({config.num_heads, config.num_heads}, world, "agreement of heads");
  if (!sum_HH.isfinite().all().item<bool>()) {
    throw_agreed<InvalidArgument>(concat("convert: layer ", layer,
                                         ": what attention heads give on the calibration text is NaN or infinite: the "
                                         "activations overflow float32, as those of a damaged or diverged model do"));
  }
  const at::Tensor length_H = sum_HH.diagonal().sqrt();
  const at::Tensor lengths_HH = length_H.unsqueeze(0) * length_H.unsqueeze(1);
  return at::where(lengths_HH > 0, sum_HH / lengths_HH, at::zeros_like(sum_HH));
}

}  // namespace moe
