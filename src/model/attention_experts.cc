#include "model/attention_experts.h"

#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "model/attention.h"
#include "model/device.h"
#include "model/ops.h"

// S slots of a token, P pairs of a token and a slot, R rows in expert order.
namespace moe {
namespace {

/// Which experts each token goes to.
struct Slots {
  at::Tensor ids_TS;      ///< int64
  at::Tensor weights_TS;  ///< of what the expert makes of the token
  at::Tensor asks_TS{};   ///< bool: whether the token has a query there, and not a key alone; undefined: everywhere
};

Slots slots_of(const Routing& routing, const AttentionExpertOptions& options) {
  const int64_t tokens = routing.expert_ids_TK.size(0);
  Slots slots{routing.expert_ids_TK,
              options.output_scale == 1 ? routing.weights_TK : routing.weights_TK * options.output_scale};
  if (options.always_on > 0) {
    const at::Tensor first = at::arange(options.always_on, slots.ids_TS.options()).expand({tokens, -1});
    slots.ids_TS = at::cat({first, slots.ids_TS + options.always_on}, 1);
    slots.weights_TS = at::cat({at::ones(first.sizes(), slots.weights_TS.options()), slots.weights_TS}, 1);
  }
  if (!options.sees_all_tokens) return slots;
  // Every expert gets every token, for its key and value.
  const at::Tensor none_TA = at::zeros({tokens, options.num_experts}, slots.weights_TS.options());
  return {at::arange(options.num_experts, slots.ids_TS.options()).expand({tokens, -1}).contiguous(),
          none_TA.scatter(1, slots.ids_TS, slots.weights_TS),
          none_TA.to(at::kBool).scatter(1, slots.ids_TS, at::ones_like(slots.ids_TS).to(at::kBool))};
}

/// int64 [T]: number of each token's sequence.
at::Tensor sequence_numbers(const std::vector<int64_t>& cu_seqlens, const at::Device& device) {
  std::vector<int64_t> numbers;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s)
    numbers.resize(static_cast<size_t>(cu_seqlens[s + 1]), static_cast<int64_t>(s));
  return on_device(at::tensor(numbers, at::kLong), device);
}

/// Heads of rows of qkv: queries and keys turned to their positions.
struct Heads {
  at::Tensor q, k, v;
};

Heads heads_of(const at::Tensor& qkv, const RopeAngles& rope, const AttentionExpertOptions& options) {
  const int64_t queries = options.query_heads, keys = options.kv_heads, all = queries + 2 * keys;
  const at::Tensor heads = qkv.view({qkv.size(0), all, qkv.size(1) / all});
  const at::Tensor turned = ops::rope(heads.narrow(1, 0, queries + keys), rope.cos, rope.sin);
  return {turned.narrow(1, 0, queries), turned.narrow(1, queries, keys), heads.narrow(1, queries + keys, keys)};
}

/// Rows in expert order whose tokens have a query there.
struct AskingRows {
  at::Tensor rows_C;        ///< int64; undefined: all of them
  at::Tensor per_expert_A;  ///< int64 [owned experts]: how many
};

/// `asks_RA`: of each row's token, whether it asks in each expert of the model.
AskingRows asking_rows(const at::Tensor& asks_RA, const at::Tensor& rows_per_expert, int64_t first_expert) {
  const at::Tensor expert_R = at::repeat_interleave(rows_per_expert, std::optional(asks_RA.size(0)));
  const at::Tensor asks_R = asks_RA.gather(1, (expert_R + first_expert).unsqueeze(1)).squeeze(1);
  return {at::nonzero(asks_R).squeeze(1),
          at::zeros_like(rows_per_expert).scatter_add_(0, expert_R, asks_R.to(at::kLong))};
}

/// The product of each row with its expert's weight; zeros where a row does not ask.
at::Tensor product(const at::Tensor& rows_RI, const AskingRows& asking, const at::Tensor& weight_AOI,
                   const at::Tensor& bias_AO = {}) {
  if (!asking.rows_C.defined()) return ops::grouped_linear(rows_RI, weight_AOI, asking.per_expert_A, bias_AO);
  const at::Tensor made =
      ops::grouped_linear(rows_RI.index_select(0, asking.rows_C), weight_AOI, asking.per_expert_A, bias_AO);
  return at::zeros({rows_RI.size(0), made.size(1)}, made.options()).index_copy(0, asking.rows_C, made);
}

/// Queries, keys and values of rows side by side.
at::Tensor qkv_of(const DispatchedTokens& dispatched, const AskingRows& asking, const MoeAttention& attention) {
  const auto& [weights, options] = attention;
  if (!asking.rows_C.defined()) return product(dispatched.rows_RD, asking, weights.qkv, weights.qkv_bias);
  const int64_t head_dim = weights.qkv.size(1) / (options.query_heads + 2 * options.kv_heads);
  const int64_t q_rows = options.query_heads * head_dim;
  const auto part = [&](const at::Tensor& all, int64_t first, int64_t end) {
    return all.defined() ? all.slice(1, first, end) : all;
  };
  const at::Tensor q =
      product(dispatched.rows_RD, asking, part(weights.qkv, 0, q_rows), part(weights.qkv_bias, 0, q_rows));
  const at::Tensor kv =
      ops::grouped_linear(dispatched.rows_RD, part(weights.qkv, q_rows, weights.qkv.size(1)),
                          dispatched.rows_per_expert, part(weights.qkv_bias, q_rows, weights.qkv.size(1)));
  return at::cat({q, kv}, 1);
}

/// Owners have the sequences of every rank in their experts.
at::Tensor attend_at_owners(const MoeAttention& attention, const Slots& slots, const std::string& where,
                            const at::Tensor& x_TD, const LayerContext& context) {
  const auto& [weights, options] = attention;
  const int64_t pairs = context.rope.cos.size(1);
  std::vector<at::Tensor> values{context.rope.cos, context.rope.sin};
  if (slots.asks_TS.defined()) values.push_back(slots.asks_TS.to(context.rope.cos.scalar_type()));
  const DispatchedTokens dispatched =
      context.dispatcher.dispatch({x_TD,
                                   slots.ids_TS,
                                   slots.weights_TS,
                                   options.num_experts,
                                   where,
                                   {sequence_numbers(context.cu_seqlens, x_TD.device()), at::cat(values, 1)}});
  const at::Tensor& tags = dispatched.tag_values_RA;
  AskingRows asking{{}, dispatched.rows_per_expert};
  if (slots.asks_TS.defined()) {
    asking = asking_rows(tags.narrow(1, 2 * pairs, options.num_experts).to(at::kBool), dispatched.rows_per_expert,
                         context.dispatcher.owned_experts(options.num_experts).first);
  }
  const Heads heads = heads_of(qkv_of(dispatched, asking, attention),
                               {tags.narrow(1, 0, pairs), tags.narrow(1, pairs, pairs)}, options);
  const at::Tensor attended = ops::causal_attention(heads.q, heads.k, heads.v, dispatched.cu_seqlens);
  const at::Tensor out = product(attended.reshape({attended.size(0), weights.o.size(2)}), asking, weights.o);
  return context.dispatcher.combine(out, dispatched);
}

/// What the pairs of tokens and slots see in their experts, with what the caches of this rank's sequences hold of them,
/// which are continued. [P, query heads, d]
at::Tensor attend_by_expert(const Heads& heads, const at::Tensor& ids_TS, int64_t layer,
                            const AttentionExpertOptions& options, const LayerContext& context) {
  const at::Tensor read_TS = ids_TS.cpu().contiguous();
  const int64_t* const ids = read_TS.const_data_ptr<int64_t>();
  const int64_t slots = ids_TS.size(1);
  at::Tensor attended = at::empty_like(heads.q);
  for (int64_t expert = 0; expert < options.num_experts; ++expert) {
    std::vector<int64_t> pairs, bounds{0};
    std::vector<LayerKvCache*> caches;
    for (size_t s = 0; s < context.options.cache->sequences.size(); ++s) {
      LayerKvCache& cache = context.options.cache->sequences[s].layers.at(layer);
      cache.experts.resize(options.num_experts);
      caches.push_back(&cache.experts[expert]);
      for (int64_t pair = context.cu_seqlens[s] * slots; pair < context.cu_seqlens[s + 1] * slots; ++pair) {
        if (ids[pair] == expert) pairs.push_back(pair);
      }
      bounds.push_back(static_cast<int64_t>(pairs.size()));
    }
    if (pairs.empty()) continue;
    const at::Tensor of_expert = on_device(at::tensor(pairs, at::kLong), ids_TS.device());
    const auto rows = [&](const at::Tensor& all) { return all.index_select(0, of_expert); };
    attended.index_copy_(0, of_expert,
                         attend_with_caches(rows(heads.q), rows(heads.k), rows(heads.v), bounds, /*window=*/0, caches));
  }
  return attended;
}

/// Each pair of a token and a slot goes to its expert's owner for its products, and comes back, as if it were a token
/// with one expert: the keys and values stay where the sequences are.
at::Tensor attend_at_sources(const MoeAttention& attention, const Slots& slots, int64_t layer, const std::string& where,
                             const at::Tensor& x_TD, const LayerContext& context) {
  const auto& [weights, options] = attention;
  const int64_t tokens = x_TD.size(0), count = slots.ids_TS.size(1), pairs = tokens * count;
  const at::Tensor ids_P1 = slots.ids_TS.reshape({pairs, 1}),
                   ones_P1 = at::ones({pairs, 1}, slots.weights_TS.options());
  const auto at_owners = [&](const at::Tensor& rows_PI, const at::Tensor& weight, const at::Tensor& bias) {
    const DispatchedTokens sent = context.dispatcher.dispatch({rows_PI, ids_P1, ones_P1, options.num_experts, where});
    return context.dispatcher.combine(ops::grouped_linear(sent.rows_RD, weight, sent.rows_per_expert, bias), sent);
  };
  const auto of_pairs = [&](const at::Tensor& of_tokens) { return of_tokens.repeat_interleave(count, 0); };
  const Heads heads = heads_of(at_owners(of_pairs(x_TD), weights.qkv, weights.qkv_bias),
                               {of_pairs(context.rope.cos), of_pairs(context.rope.sin)}, options);
  const at::Tensor attended = attend_by_expert(heads, slots.ids_TS, layer, options, context);
  const at::Tensor out_PD = at_owners(attended.reshape({pairs, weights.o.size(2)}), weights.o, {});
  return (out_PD.view({tokens, count, out_PD.size(1)}) * slots.weights_TS.unsqueeze(2)).sum(1).to(x_TD.scalar_type());
}

}  // namespace

AttentionExpertsOutput attention_experts(const MoeAttention& attention, int64_t layer, const at::Tensor& x_TD,
                                         const LayerContext& context) {
  const auto& [weights, options] = attention;
  const Routing routing =
      route(x_TD, weights.router, options.router, {},
            chosen_ids(context.options.choice, attention_router(layer), x_TD.size(0),
                       options.num_experts - options.always_on, options.router.top_k, x_TD.device()));
  measure(routing, kAttentionRouter, context.options.statistics);
  const Slots slots = slots_of(routing, options);
  const std::string where = concat("attention of layer ", layer);
  at::Tensor y = context.options.cache == nullptr ? attend_at_owners(attention, slots, where, x_TD, context)
                                                  : attend_at_sources(attention, slots, layer, where, x_TD, context);
  if (weights.o_bias.defined()) y = ops::add_bias(y, weights.o_bias);
  return {y, stats_of(routing, context.options.keeps_routing)};
}

}  // namespace moe
