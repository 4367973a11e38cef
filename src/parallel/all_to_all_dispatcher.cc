#include "parallel/all_to_all_dispatcher.h"

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "model/moe/slot_order.h"
#include "model/ops.h"
#include "parallel/row_exchange.h"

namespace moe {
namespace {

/// What this rank sends: one row per (token, rank that owns any of its experts), by rank, then by token.
struct SendOrder {
  at::Tensor row_tokens_S;  ///< int64: token of each sent row
  at::Tensor slot_rows_TP;  ///< int64: row of each (token, destination rank), -1 for none
  at::Tensor local_ids_SK;  ///< int64: the destination's own number of the expert in slot k, -1 if it lives elsewhere
  std::vector<int64_t> rows_per_rank;  ///< [ranks]
};

/// Two passes: how many rows each rank gets is known only when all tokens are counted, and an exchange wants the rows
/// of one destination side by side. Within a destination rows keep the order of tokens, and ranks hold consecutive
/// shares of the batch; so a receiver, which gets rows by source rank, has them in the order of the global batch, and
/// an expert's weight gradient adds the rows in the order that one rank with all these tokens would.
SendOrder order_sends(const at::Tensor& ids_TK, int64_t experts_per_rank, int64_t ranks) {
  const at::Tensor ids_tensor = ids_TK.contiguous();
  const int64_t tokens = ids_tensor.size(0), top_k = ids_tensor.size(1);
  const int64_t* ids = ids_tensor.const_data_ptr<int64_t>();

  SendOrder order;
  order.slot_rows_TP = at::full({tokens, ranks}, -1, at::kLong);
  int64_t* const slot_rows = order.slot_rows_TP.mutable_data_ptr<int64_t>();
  order.rows_per_rank.assign(ranks, 0);
  for (int64_t slot = 0; slot < tokens * top_k; ++slot) {
    const int64_t rank = ids[slot] / experts_per_rank;
    int64_t& row = slot_rows[slot / top_k * ranks + rank];
    // The first slot that leads to this rank takes the row; the token's others there share it: rows are wide, ids not.
    if (row < 0) row = order.rows_per_rank[rank]++;
  }
  std::vector<int64_t> first(ranks, 0);
  std::exclusive_scan(order.rows_per_rank.begin(), order.rows_per_rank.end(), first.begin(), int64_t{0});
  const int64_t rows = first.back() + order.rows_per_rank.back();

  order.row_tokens_S = at::empty({rows}, at::kLong);
  order.local_ids_SK = at::empty({rows, top_k}, at::kLong);
  int64_t* const row_tokens = order.row_tokens_S.mutable_data_ptr<int64_t>();
  int64_t* const local_ids = order.local_ids_SK.mutable_data_ptr<int64_t>();
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      int64_t& row = slot_rows[token * ranks + rank];
      if (row < 0) continue;
      row += first[rank];
      row_tokens[row] = token;
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t id = ids[token * top_k + k];
        local_ids[row * top_k + k] = id / experts_per_rank == rank ? id % experts_per_rank : -1;
      }
    }
  }
  return order;
}

class AllToAllPlan final : public DispatchPlan {
 public:
  at::Tensor send_row_tokens_S;  ///< token of each row sent
  at::Tensor send_slot_rows_TP;  ///< row sent of each (token, rank)
  ExchangeCounts counts;         ///< of the way out
  at::Tensor slot_rows_NK;       ///< expert row of each (received row, slot)
  at::Tensor weights_NK;         ///< of each (received row, slot)
};

}  // namespace

DispatchedTokens AllToAllDispatcher::dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK,
                                              const at::Tensor& weights_TK, int64_t num_experts, int64_t layer) {
  Communicator& group = mesh_.expert_group();
  const std::string where = " layer " + std::to_string(layer);
  const ExpertRange owned = owned_experts(num_experts);
  const SendOrder sends = order_sends(ids_TK, owned.count, group.size());

  auto plan = std::make_shared<AllToAllPlan>();
  plan->send_row_tokens_S = sends.row_tokens_S;
  plan->send_slot_rows_TP = sends.slot_rows_TP;
  plan->counts = {sends.rows_per_rank, group.exchange_counts(sends.rows_per_rank, "dispatch counts" + where)};
  // On their way while the rows are laid out and travel.
  const std::unique_ptr<Work> ids_on_their_way =
      group.start_all_to_all(sends.local_ids_SK, plan->counts.send, plan->counts.receive, "dispatch ids" + where);

  const at::Tensor rows_SD = ops::permute(x_TD, sends.row_tokens_S, sends.slot_rows_TP);
  const at::Tensor weights_SK = ops::permute(weights_TK, sends.row_tokens_S, sends.slot_rows_TP);
  const std::vector<at::Tensor> received =
      exchange_rows(group, {rows_SD, weights_SK}, plan->counts, "dispatch rows" + where);
  plan->weights_NK = received[1];
  const at::Tensor received_ids_NK = ids_on_their_way->wait();

  SlotOrder order = sort_slots(received_ids_NK, {0, owned.count});
  plan->slot_rows_NK = order.slot_rows_TK;
  traffic_.rows_sent += sends.row_tokens_S.size(0);
  traffic_.rows_received += received_ids_NK.size(0);
  return {ops::permute(received[0], order.row_tokens_R, order.slot_rows_TK), std::move(order.rows_per_expert),
          std::move(plan)};
}

at::Tensor AllToAllDispatcher::combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched,
                                       int64_t layer) {
  const auto* plan = dynamic_cast<const AllToAllPlan*>(dispatched.plan.get());
  MOE_CHECK(plan != nullptr, "combine needs what this dispatcher's dispatch returned");
  // Summed at the owner, one row goes back instead of one per expert. A token's terms are then added by rank, not by
  // slot: two terms have the same bits in either order, three or more may differ from one rank's sum in the last bit.
  const at::Tensor sums_ND = ops::unpermute(expert_out_RD, plan->slot_rows_NK, plan->weights_NK);
  const std::vector<at::Tensor> returned = exchange_rows(mesh_.expert_group(), {sums_ND}, plan->counts.reversed(),
                                                         "combine rows layer " + std::to_string(layer));
  return ops::sum_slots(returned[0], plan->send_row_tokens_S, plan->send_slot_rows_TP);
}

}  // namespace moe
