#include "model/attention.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "common/error.h"
#include "model/ops.h"

namespace moe {
namespace {

/// Queries over the keys of their cache, the last of which are of their own tokens: q [n, heads, d], keys and values
/// [L, kv heads, d] -> [n, heads, d]. Each sees those up to its own, of a window (0: all) the last so many.
at::Tensor attend_to_cache(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, int64_t window) {
  const auto by_head = [&](const at::Tensor& x) {
    return x.transpose(0, 1).repeat_interleave(q.size(1) / x.size(1), 0).unsqueeze(0);
  };
  std::optional<at::Tensor> is_seen_nL;  // one query sees them all
  if (q.size(0) > 1) {
    const at::Tensor key_L = at::arange(keys.size(0), q.options().dtype(at::kLong)),
                     own_n1 = key_L.slice(0, keys.size(0) - q.size(0)).unsqueeze(1);
    is_seen_nL = key_L.le(own_n1);
    if (window > 0) is_seen_nL = is_seen_nL->logical_and(key_L.gt(own_n1 - window));
  }
  return at::scaled_dot_product_attention(by_head(q), by_head(keys), by_head(values), is_seen_nL)
      .squeeze(0)
      .transpose(0, 1);
}

at::Tensor last_rows(const at::Tensor& rows, int64_t most) {
  return rows.slice(0, std::max<int64_t>(0, rows.size(0) - most));
}

/// The last `most` rows in memory of their own: a part of a batch's rows would keep the rows of all its sequences for
/// as long as the cache lives.
at::Tensor kept_rows(const at::Tensor& rows, int64_t most) {
  const at::Tensor kept = last_rows(rows, most);
  return kept.storage().nbytes() > kept.nbytes() ? kept.clone() : kept;
}

/// Of one sequence; `window` 0: all.
at::Tensor attend_with_cache(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                             LayerKvCache& cache) {
  if (q.size(0) == 0) return q;
  const bool is_first = !cache.keys.defined();
  const int64_t seen_later = window > 0 ? window : std::numeric_limits<int64_t>::max();
  // The first of the new queries sees its own key and a window less one of those before.
  const auto seen = [&](const at::Tensor& before, const at::Tensor& rows) {
    return is_first ? rows : at::cat({last_rows(before, seen_later - 1), rows});
  };
  const at::Tensor keys = seen(cache.keys, k), values = seen(cache.values, v);
  cache.keys = kept_rows(keys, seen_later);
  cache.values = kept_rows(values, seen_later);
  return is_first ? ops::causal_attention(q, k, v, {0, q.size(0)}, window) : attend_to_cache(q, keys, values, window);
}

}  // namespace

at::Tensor attend_with_caches(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::vector<int64_t>& cu_seqlens, int64_t window,
                              const std::vector<LayerKvCache*>& caches) {
  MOE_CHECK(caches.size() + 1 == cu_seqlens.size(), "one cache per sequence");
  std::vector<at::Tensor> attended;
  for (size_t s = 0; s < caches.size(); ++s) {
    const auto rows = [&](const at::Tensor& all) { return all.slice(0, cu_seqlens[s], cu_seqlens[s + 1]); };
    attended.push_back(attend_with_cache(rows(q), rows(k), rows(v), window, *caches[s]));
  }
  return attended.size() == 1 ? attended.front() : at::cat(attended);
}

at::Tensor attention(const ModelConfig& config, const AttentionWeights& weights, const RopeAngles& rope,
                     const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens,
                     const std::vector<LayerKvCache*>& caches) {
  const int64_t tokens = x_TD.size(0), window = config.attention_window.value_or(0);
  const auto heads = [&](const at::Tensor& weight, const at::Tensor& bias, int64_t count) {
    return ops::linear(x_TD, weight, bias).view({tokens, count, config.head_dim});
  };
  const at::Tensor q = ops::rope(heads(weights.q, weights.q_bias, config.num_heads), rope.cos, rope.sin);
  const at::Tensor k = ops::rope(heads(weights.k, weights.k_bias, config.num_kv_heads), rope.cos, rope.sin);
  const at::Tensor v = heads(weights.v, weights.v_bias, config.num_kv_heads);
  const at::Tensor attended = caches.empty() ? ops::causal_attention(q, k, v, cu_seqlens, window)
                                             : attend_with_caches(q, k, v, cu_seqlens, window, caches);
  return ops::linear(attended.reshape({tokens, config.num_heads * config.head_dim}), weights.o, weights.o_bias);
}

}  // namespace moe
