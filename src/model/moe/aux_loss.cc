#include "model/moe/aux_loss.h"

#include "common/error.h"
#include "model/device.h"

namespace moe {

BalanceLayers parse_balance_layers(const std::string& name) {
  if (name == "per_layer") return BalanceLayers::kPerLayer;
  if (name == "concatenated") return BalanceLayers::kConcatenated;
  throw InvalidArgument(concat("balance_layers '", name, "'; expected per_layer or concatenated"));
}

at::Tensor balance_loss(const std::vector<RouterStats>& local, const at::Tensor& tokens_per_expert_LE,
                        int64_t global_tokens, int64_t top_k, int64_t counted_tokens, BalanceLayers layers) {
  MOE_CHECK(static_cast<int64_t>(local.size()) == tokens_per_expert_LE.size(0), "one row of counts per MoE layer");
  std::vector<at::Tensor> probability_sums;
  for (const RouterStats& stats : local) probability_sums.push_back(stats.probability_sum_E);
  const at::Tensor sums_LE = at::stack(probability_sums);
  const auto tokens = static_cast<double>(global_tokens);
  const auto counted = static_cast<double>(counted_tokens > 0 ? counted_tokens : global_tokens);
  const at::Tensor fractions_LE =
      tokens_per_expert_LE.to(sums_LE.scalar_type()) / (static_cast<double>(top_k) * counted);
  const auto experts = static_cast<double>(sums_LE.size(1));
  if (layers == BalanceLayers::kConcatenated)
    return (fractions_LE.mean(0) * (sums_LE.mean(0) / tokens)).sum() * experts;
  return (fractions_LE * (sums_LE / tokens)).sum(1).mean() * experts;
}

at::Tensor sequence_balance_loss(const std::vector<RouterStats>& local, const std::vector<int64_t>& cu_seqlens,
                                 int64_t global_tokens, int64_t top_k, BalanceLayers layers) {
  const auto sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
  std::vector<int64_t> sequence_of;
  std::vector<double> lengths;
  for (int64_t s = 0; s < sequences; ++s) {
    sequence_of.resize(static_cast<size_t>(cu_seqlens[s + 1]), s);
    lengths.push_back(static_cast<double>(cu_seqlens[s + 1] - cu_seqlens[s]));
  }
  MOE_CHECK(!local.empty(), "no MoE layer");
  // To the device once for all layers.
  const at::TensorOptions options = local.front().routing.probabilities_TE.options().requires_grad(false);
  const at::Tensor of_T = on_device(at::tensor(sequence_of, at::kLong), options.device());
  const at::Tensor slots_S1 = on_device((at::tensor(lengths, at::kDouble) * static_cast<double>(top_k))
                                            .to(c10::typeMetaToScalarType(options.dtype())),
                                        options.device())
                                  .unsqueeze(1);
  std::vector<at::Tensor> sums;
  at::Tensor fractions_TE, probabilities_TE;  // of concatenated layers: summed over them
  const auto sum_of = [](const at::Tensor& f_TE, const at::Tensor& p_TE) {
    return (f_TE * p_TE).sum() * static_cast<double>(p_TE.size(1));
  };
  for (const RouterStats& stats : local) {
    const at::Tensor& p_TE = stats.routing.probabilities_TE;
    const int64_t experts = p_TE.size(1);
    const at::Tensor places = (of_T.unsqueeze(1) * experts + stats.routing.expert_ids_TK).flatten();
    const at::Tensor counts_SE = at::zeros({sequences * experts}, places.options())
                                     .scatter_add_(0, places, at::ones_like(places))
                                     .view({sequences, experts});
    const at::Tensor fractions_SE = counts_SE.to(p_TE.scalar_type()) / slots_S1;
    const at::Tensor f_TE = fractions_SE.index_select(0, of_T);
    if (layers == BalanceLayers::kPerLayer) {
      sums.push_back(sum_of(f_TE, p_TE));
      continue;
    }
    fractions_TE = fractions_TE.defined() ? fractions_TE + f_TE : f_TE;
    probabilities_TE = probabilities_TE.defined() ? probabilities_TE + p_TE : p_TE;
  }
  const auto count = static_cast<double>(local.size());
  if (layers == BalanceLayers::kConcatenated) sums = {sum_of(fractions_TE / count, probabilities_TE / count)};
  return at::stack(sums).mean() / static_cast<double>(global_tokens);
}

at::Tensor router_z_loss(const std::vector<RouterStats>& local, int64_t global_tokens) {
  std::vector<at::Tensor> sums;
  for (const RouterStats& stats : local) sums.push_back(at::logsumexp(stats.routing.logits_TE, {1}).square().sum());
  return at::stack(sums).mean() / static_cast<double>(global_tokens);
}

}  // namespace moe
