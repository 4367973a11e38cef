#include "train/train_step.h"

#include <algorithm>

#include "common/error.h"
#include "model/moe/aux_loss.h"
#include "model/moe/expert_load.h"

namespace moe {

BalanceScope parse_balance_scope(const std::string& name) {
  if (name == "micro_batch") return BalanceScope::kMicroBatch;
  if (name == "sequence") return BalanceScope::kSequence;
  if (name == "global_batch") return BalanceScope::kGlobalBatch;
  throw InvalidArgument(concat("balance_scope '", name, "'; expected micro_batch, sequence or global_batch"));
}

StepOutcome compute_gradients(Decoder& decoder, TokenDispatcher& dispatcher, Mesh& mesh, DataLoader& loader,
                              int64_t first_row, const StepOptions& options) {
  const int64_t rows = options.micro_batch_rows;
  loader.release_before(first_row);
  const auto targets =
      static_cast<double>(std::max<int64_t>(1, loader.target_tokens(first_row, rows * options.micro_steps)));
  StepOutcome outcome;
  outcome.tokens = loader.tokens(first_row, rows * options.micro_steps);
  at::Tensor load_LE;
  int64_t counted_tokens = 0;  // that load_LE is of
  // This rank's shares of the loss, the balance loss and the z-loss, summed over the ranks at the end. On the model's
  // device, as all that a step measures: nothing of it is read before the last backward is on its way.
  at::Tensor shares = at::zeros({3}, decoder.parameters().front().value.options().dtype(at::kDouble));
  LayerStatistics statistics;
  const bool keeps_routing =
      options.reads_each_token || options.z_loss != 0 || options.balance_scope == BalanceScope::kSequence;
  for (int64_t micro_step = 0; micro_step < options.micro_steps; ++micro_step) {
    const int64_t first = first_row + micro_step * rows;
    const Mesh::Share share = mesh.share_of(rows);
    const PackedBatch batch = loader.batch(first + share.first, share.count);
    const DecoderOutput out = decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher,
                                              {.statistics = &statistics, .keeps_routing = keeps_routing});
    at::Tensor loss = decoder.token_losses(out.hidden_TD, batch.labels_T).sum() / targets;
    shares[0] += loss.detach().to(at::kDouble);
    if (!out.router.empty()) {
      at::Tensor counts_LE = stacked_counts(out.router);
      mesh.world().all_reduce_sum(counts_LE, "expert counts");
      load_LE = load_LE.defined() ? load_LE + counts_LE : counts_LE;
      const int64_t tokens = loader.tokens(first, rows), top_k = decoder.config().moe->top_k;
      counted_tokens += tokens;
      const auto micro_steps = static_cast<double>(options.micro_steps);
      at::Tensor balance;
      switch (options.balance_scope) {
        case BalanceScope::kMicroBatch:
          balance = balance_loss(out.router, counts_LE, tokens, top_k) / micro_steps;
          break;
        case BalanceScope::kGlobalBatch:
          balance = balance_loss(out.router, load_LE, tokens, top_k, counted_tokens) / micro_steps;
          break;
        case BalanceScope::kSequence:
          balance = sequence_balance_loss(out.router, batch.cu_seqlens, outcome.tokens, top_k);
      }
      shares[1] += balance.detach().to(at::kDouble);
      if (options.balance_loss != 0) loss = loss + options.balance_loss * balance;
      if (options.z_loss != 0) {
        const at::Tensor z_loss = router_z_loss(out.router, outcome.tokens);
        shares[2] += z_loss.detach().to(at::kDouble);
        loss = loss + options.z_loss * z_loss;
      }
      if (options.on_routing) options.on_routing(out.router);
    }
    loss.backward();
  }
  const at::Tensor measured_N2 = statistics.totals();
  at::Tensor sums = at::cat({shares, measured_N2.flatten()});
  mesh.world().all_reduce_sum(sums, "step losses");
  // The reads of a step, for its record: these, and the expert counts.
  const at::Tensor read = sums.cpu();
  outcome.loss = read.const_data_ptr<double>()[0];
  outcome.balance_loss = read.const_data_ptr<double>()[1];
  outcome.z_loss = read.const_data_ptr<double>()[2];
  outcome.expert_load = load_by_layer(decoder.config(), load_LE);
  outcome.layers = statistics.means(read.slice(0, shares.numel()).view_as(measured_N2));
  return outcome;
}

}  // namespace moe
