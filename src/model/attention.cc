#include "model/attention.h"

#include "common/error.h"
#include "model/ops.h"

namespace moe {
namespace {

/// One query over all keys of its cache: q [1, heads, d], keys and values [L, kv heads, d] -> [1, heads, d].
at::Tensor attend_to_cache(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values) {
  const auto by_head = [&](const at::Tensor& x) { return x.transpose(0, 1).repeat_interleave(q.size(1) / x.size(1), 0).unsqueeze(0); };
  return at::scaled_dot_product_attention(by_head(q), by_head(keys), by_head(values)).squeeze(0).transpose(0, 1);
}

at::Tensor attend_with_cache(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, LayerKvCache& cache) {
  const bool is_first = !cache.keys.defined();
  MOE_CHECK(is_first || q.size(0) == 1, "a cache is continued one token at a time, after a prompt of any length");
  cache.keys = is_first ? k : at::cat({cache.keys, k});
  cache.values = is_first ? v : at::cat({cache.values, v});
  return is_first ? ops::causal_attention(q, k, v, {0, q.size(0)}) : attend_to_cache(q, cache.keys, cache.values);
}

}  // namespace

RopeTable make_rope_table(const ModelConfig& config, int64_t positions, at::ScalarType dtype) {
  const int64_t pairs = config.head_dim / 2;
  const at::Tensor exponents = at::arange(0, config.head_dim, 2, at::kFloat) / static_cast<double>(config.head_dim);
  const at::Tensor frequencies = at::pow(config.rope_theta, exponents).reciprocal();
  const at::Tensor angles = at::arange(positions, at::kFloat).unsqueeze(1) * frequencies.view({1, pairs});
  return {angles.cos().to(dtype), angles.sin().to(dtype)};
}

at::Tensor attention(const ModelConfig& config, const AttentionWeights& weights, const RopeTable& rope, const at::Tensor& x_TD,
                     const at::Tensor& positions_T, const std::vector<int64_t>& cu_seqlens, LayerKvCache* cache) {
  const int64_t tokens = x_TD.size(0);
  const at::Tensor cos = rope.cos.index_select(0, positions_T), sin = rope.sin.index_select(0, positions_T);
  const at::Tensor q = ops::rope(ops::linear(x_TD, weights.q).view({tokens, config.num_heads, config.head_dim}), cos, sin);
  const at::Tensor k = ops::rope(ops::linear(x_TD, weights.k).view({tokens, config.num_kv_heads, config.head_dim}), cos, sin);
  const at::Tensor v = ops::linear(x_TD, weights.v).view({tokens, config.num_kv_heads, config.head_dim});
  const at::Tensor attended = cache != nullptr ? attend_with_cache(q, k, v, *cache) : ops::causal_attention(q, k, v, cu_seqlens);
  return ops::linear(attended.reshape({tokens, config.num_heads * config.head_dim}), weights.o);
}

}  // namespace moe
