#include "parallel/all_to_all_dispatcher.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "kernels/routing.h"
#include "model/moe/sequence_segments.h"
#include "model/moe/slot_order.h"
#include "model/op_queue.h"
#include "model/ops.h"
#include "parallel/row_exchange.h"

namespace moe {
namespace {

/// What this rank sends: one row per (token, rank that owns any of its experts), by rank, then by token.
struct SendOrder {
  at::Tensor row_tokens_S;  ///< int64: token of each sent row
  at::Tensor slot_rows_TP;  ///< int64: row of each (token, destination rank), -1 for none
  at::Tensor local_ids_SK;  ///< int64: the destination's own number of the expert in slot k, -1 if it lives elsewhere
  std::vector<int64_t> counts;  ///< [ranks, 2]: rows for each rank, and how many of their slots live there
};

/// Within a destination rows keep the order of tokens, and ranks hold consecutive shares of the batch; so a receiver,
/// which gets rows by source rank, has them in the order of the global batch, and an expert's weight gradient adds the
/// rows in the order that one rank with all these tokens would.
SendOrder order_sends(const at::Tensor& ids_TK, int64_t experts_per_rank, int64_t ranks) {
  const kernels::Queue queue = ops::queue_of("sort_sends", {{"ids", ids_TK}});
  const at::Tensor ids = ids_TK.contiguous();
  const int64_t tokens = ids.size(0), top_k = ids.size(1), room = tokens * std::min(top_k, ranks);
  at::Tensor row_tokens = at::empty({room}, ids.options()), slot_rows = at::empty({tokens, ranks}, ids.options()),
             local_ids = at::empty({room, top_k}, ids.options()), counts = at::empty({ranks, 2}, ids.options());
  kernels::sort_sends({ids.const_data_ptr<int64_t>(), tokens, top_k, ranks, experts_per_rank,
                       row_tokens.mutable_data_ptr<int64_t>(), slot_rows.mutable_data_ptr<int64_t>(),
                       local_ids.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>()},
                      queue);
  // The one read of a layer whose experts are spread: transports, and the shapes of what travels, want counts on the
  // host. With the slots beside the rows, a receiver need not read how many rows its experts have.
  const at::Tensor read = counts.cpu();
  const int64_t* const values = read.const_data_ptr<int64_t>();
  SendOrder order{{}, slot_rows, {}, {values, values + read.numel()}};
  int64_t rows = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) rows += order.counts[2 * rank];
  order.row_tokens_S = row_tokens.narrow(0, 0, rows);
  order.local_ids_SK = local_ids.narrow(0, 0, rows);
  return order;
}

/// Of counts [ranks, 2] the first of each rank, or the second.
std::vector<int64_t> column(const std::vector<int64_t>& counts, size_t which) {
  std::vector<int64_t> values;
  for (size_t i = which; i < counts.size(); i += 2) values.push_back(counts[i]);
  return values;
}

class AllToAllPlan final : public DispatchPlan {
 public:
  at::Tensor send_row_tokens_S;  ///< token of each row sent
  at::Tensor send_slot_rows_TP;  ///< row sent of each (token, rank)
  ExchangeCounts counts;         ///< of the way out
  at::Tensor slot_rows_NK;       ///< expert row of each (received row, slot)
  at::Tensor weights_NK;         ///< of each (received row, slot)
  std::string where;
};

/// Numbers of sequences that no other rank of the group has.
at::Tensor numbered_by_rank(const at::Tensor& sequences_T, const Communicator& group) {
  constexpr int64_t kMostSequences = int64_t{1} << 32;
  return sequences_T + group.rank() * kMostSequences;
}

}  // namespace

DispatchedTokens AllToAllDispatcher::dispatch(const RoutedTokens& tokens) {
  Communicator& group = mesh_.expert_group();
  const std::string where = " " + tokens.where;
  const ExpertRange owned = owned_experts(tokens.num_experts);
  const SendOrder sends = order_sends(tokens.ids_TK, owned.count, group.size());
  const int64_t slots = tokens.ids_TK.size(1);
  const bool has_tags = tokens.tags.sequences_T.defined();

  auto plan = std::make_shared<AllToAllPlan>();
  plan->send_row_tokens_S = sends.row_tokens_S;
  plan->send_slot_rows_TP = sends.slot_rows_TP;
  const std::vector<int64_t> arriving = group.exchange_counts(sends.counts, "dispatch counts" + where, 2);
  plan->counts = {column(sends.counts, 0), column(arriving, 0)};
  plan->where = where;
  // On their way while the rows are laid out and travel: ids, and the sequence of each row behind them.
  at::Tensor ids = sends.local_ids_SK;
  std::unique_ptr<Work> values_on_their_way;
  if (has_tags) {
    const at::Tensor sequences_T = numbered_by_rank(tokens.tags.sequences_T, group);
    ids = at::cat({ids, sequences_T.index_select(0, sends.row_tokens_S).unsqueeze(1)}, 1);
  }
  const std::unique_ptr<Work> ids_on_their_way =
      group.start_all_to_all(ids, plan->counts.send, plan->counts.receive, "dispatch ids" + where);
  if (has_tags) {
    values_on_their_way = group.start_all_to_all(tokens.tags.values_TA.detach().index_select(0, sends.row_tokens_S),
                                                 plan->counts.send, plan->counts.receive, "dispatch tags" + where);
  }

  const at::Tensor rows_SD = ops::permute(tokens.x_TD, sends.row_tokens_S, sends.slot_rows_TP);
  const at::Tensor weights_SK = ops::permute(tokens.weights_TK, sends.row_tokens_S, sends.slot_rows_TP);
  const std::vector<at::Tensor> received =
      exchange_rows(group, {rows_SD, weights_SK}, plan->counts, "dispatch rows" + where);
  plan->weights_NK = received[1];
  const at::Tensor received_ids = ids_on_their_way->wait();

  const std::vector<int64_t> owned_slots = column(arriving, 1);
  const SlotOrder order = sort_slots(received_ids.narrow(1, 0, slots), {0, owned.count},
                                     std::accumulate(owned_slots.begin(), owned_slots.end(), int64_t{0}));
  plan->slot_rows_NK = order.slot_rows_TK;
  traffic_.rows_sent += sends.row_tokens_S.size(0);
  traffic_.rows_received += received_ids.size(0);
  DispatchedTokens dispatched{ops::permute(received[0], order.row_tokens_R, order.slot_rows_TK), order.rows_per_expert,
                              std::move(plan)};
  if (has_tags) add_tags({received_ids.select(1, slots), values_on_their_way->wait()}, order, dispatched);
  return dispatched;
}

at::Tensor AllToAllDispatcher::combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched) {
  const auto* plan = dynamic_cast<const AllToAllPlan*>(dispatched.plan.get());
  MOE_CHECK(plan != nullptr, "combine needs what this dispatcher's dispatch returned");
  // Summed at the owner, one row goes back instead of one per expert. A token's terms are then added by rank, not by
  // slot: two terms have the same bits in either order, three or more may differ from one rank's sum in the last bit.
  const at::Tensor sums_ND = ops::unpermute(expert_out_RD, plan->slot_rows_NK, plan->weights_NK);
  const std::vector<at::Tensor> returned =
      exchange_rows(mesh_.expert_group(), {sums_ND}, plan->counts.reversed(), "combine rows" + plan->where);
  return ops::sum_slots(returned[0], plan->send_row_tokens_S, plan->send_slot_rows_TP);
}

}  // namespace moe
