#include "model/attention.h"

#include "common/error.h"
#include "model/ops.h"

namespace moe {
namespace {

/// [B, heads, L, d] each; the heads of k and v are repeated for their group of queries.
at::Tensor attend(const ModelConfig& config, const at::Tensor& q, at::Tensor k, at::Tensor v, bool causal) {
  const int64_t group = config.num_heads / config.num_kv_heads;
  if (group > 1) {
    const auto repeated = [group](const at::Tensor& x) {
      return x.unsqueeze(2).expand({-1, -1, group, -1, -1}).reshape({x.size(0), x.size(1) * group, x.size(2), x.size(3)});
    };
    k = repeated(k);
    v = repeated(v);
  }
  return at::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, causal);
}

/// Number of sequences from `first` on that are as long as it.
int64_t run_of_equal_lengths(const std::vector<int64_t>& cu_seqlens, size_t first) {
  const int64_t length = cu_seqlens[first + 1] - cu_seqlens[first];
  size_t last = first + 1;
  while (last + 1 < cu_seqlens.size() && cu_seqlens[last + 1] - cu_seqlens[last] == length) ++last;
  return static_cast<int64_t>(last - first);
}

/// [B * L, heads, d] <-> [B, heads, L, d]
at::Tensor to_heads(const at::Tensor& x, int64_t sequences) {
  return x.view({sequences, x.size(0) / sequences, x.size(1), x.size(2)}).transpose(1, 2);
}
at::Tensor joined(const at::Tensor& x) { return x.transpose(1, 2).reshape({x.size(0) * x.size(2), x.size(1) * x.size(3)}); }

at::Tensor attend_sequences(const ModelConfig& config, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<int64_t>& cu_seqlens) {
  std::vector<at::Tensor> parts;
  for (size_t first = 0; first + 1 < cu_seqlens.size();) {
    const int64_t sequences = run_of_equal_lengths(cu_seqlens, first);
    const int64_t begin = cu_seqlens[first], tokens = cu_seqlens[first + sequences] - begin;
    first += sequences;
    if (tokens == 0) continue;
    const auto part = [&](const at::Tensor& x) { return to_heads(x.narrow(0, begin, tokens), sequences); };
    parts.push_back(joined(attend(config, part(q), part(k), part(v), /*causal=*/true)));
  }
  if (parts.empty()) return q.reshape({0, q.size(1) * q.size(2)});
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

at::Tensor attend_with_cache(const ModelConfig& config, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             LayerKvCache& cache) {
  const bool is_first = !cache.keys.defined();
  MOE_CHECK(is_first || q.size(0) == 1, "a cache is continued one token at a time, after a prompt of any length");
  cache.keys = is_first ? k : at::cat({cache.keys, k});
  cache.values = is_first ? v : at::cat({cache.values, v});
  return joined(attend(config, to_heads(q, 1), to_heads(cache.keys, 1), to_heads(cache.values, 1), /*causal=*/is_first));
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
  const at::Tensor attended =
      cache != nullptr ? attend_with_cache(config, q, k, v, *cache) : attend_sequences(config, q, k, v, cu_seqlens);
  return ops::linear(attended, weights.o);
}

}  // namespace moe
