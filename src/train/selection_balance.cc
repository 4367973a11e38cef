#include "train/selection_balance.h"

#include "common/error.h"
#include "parallel/column_order.h"

namespace moe {

SelectionBalance::SelectionBalance(const std::vector<Parameter>& parameters, int64_t top_k, BiasRule rule, double rate,
                                   bool of_attention)
    : top_k_(top_k), rule_(rule), rate_(rate) {
  for (const Parameter& parameter : parameters) {
    if (parameter.id.part == TensorPart::kSelectionBias && parameter.id.is_of_attention() == of_attention)
      biases_E_.push_back(parameter.value.detach());
  }
}

void SelectionBalance::begin() {
  load_LE_ = at::Tensor();
  margins_TC_.clear();
}

void SelectionBalance::add(const std::vector<RouterStats>& routers) {
  const at::NoGradGuard no_grad;
  MOE_CHECK(routers.size() == biases_E_.size(), routers.size(), " routers, ", biases_E_.size(), " selection biases");
  if (routers.empty()) return;
  std::vector<at::Tensor> counts, margins;
  for (size_t layer = 0; layer < routers.size(); ++layer) {
    counts.push_back(routers[layer].tokens_per_expert_E);
    // Of all experts there is no choice to be moved.
    if (!reads_each_token() || top_k_ >= biases_E_[layer].numel()) continue;
    const at::Tensor& scores_TE = routers[layer].routing.scores_TE;
    // As the router adds them up, so that the K + 1st is the first that it did not choose.
    const at::Tensor wanted_TE = scores_TE + biases_E_[layer].to(scores_TE.scalar_type());
    margins.push_back(scores_TE - std::get<0>(at::topk(wanted_TE, top_k_ + 1, 1)).narrow(1, top_k_, 1));
  }
  const at::Tensor counts_LE = at::stack(counts);
  load_LE_ = load_LE_.defined() ? load_LE_ + counts_LE : counts_LE;
  if (!margins.empty()) margins_TC_.push_back(at::cat(margins, 1));
}

void SelectionBalance::update(Communicator& world) {
  const at::NoGradGuard no_grad;
  if (!load_LE_.defined()) return;
  world.all_reduce_sum(load_LE_, "load of a step");
  if (rule_ == BiasRule::kLoad) {
    move_by_load();
  } else {
    move_to_quantiles(world);
  }
  begin();
}

void SelectionBalance::move_by_load() {
  for (size_t layer = 0; layer < biases_E_.size(); ++layer) {
    const at::Tensor load_E = load_LE_[static_cast<int64_t>(layer)];
    // sign(mean - load) in whole numbers: an even load moves nothing.
    const at::Tensor sign_E = (load_E.sum() - load_E * load_E.numel()).sign();
    const at::Tensor moved_E = biases_E_[layer].to(at::kDouble) + rate_ * sign_E.to(at::kDouble);
    biases_E_[layer].copy_(moved_E - moved_E.mean());
  }
}

void SelectionBalance::move_to_quantiles(Communicator& world) {
  if (margins_TC_.empty()) return;
  const int64_t slots = load_LE_[0].sum().item<int64_t>(), experts = load_LE_.size(1);
  if (slots == 0) return;
  const at::Tensor beta_LE = ranked_of_columns(margins_TC_, slots / experts + 1, world).view_as(load_LE_);
  for (size_t layer = 0; layer < biases_E_.size(); ++layer)
    biases_E_[layer].copy_(-beta_LE[static_cast<int64_t>(layer)]);
}

}  // namespace moe
