#include "train/train_step.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "common/error.h"
#include "model/moe/expert_load.h"
#include "parallel/token_capacity.h"

namespace moe {

BalanceScope parse_balance_scope(const std::string& name) {
  if (name == "micro_batch") return BalanceScope::kMicroBatch;
  if (name == "sequence") return BalanceScope::kSequence;
  if (name == "global_batch") return BalanceScope::kGlobalBatch;
  throw InvalidArgument(concat("balance_scope '", name, "'; expected micro_batch, sequence or global_batch"));
}

BalanceForm balance_form_of(const std::string& balance) {
  if (balance == "importance_load") return BalanceForm::kImportanceLoad;
  return balance == "constant" ? BalanceForm::kConstant : BalanceForm::kAuxiliary;
}

namespace {

/// The balance loss of a step's routers of FFNs, or of attention, micro-batch by micro-batch. Collective.
class StepBalance {
 public:
  /// `experts`, of which a token chooses `top_k`; `where` begins the names of its collectives.
  StepBalance(const StepOptions& options, int64_t experts, int64_t top_k, std::string where, Communicator& world)
      : options_(options), experts_(experts), top_k_(top_k), where_(std::move(where)), world_(world) {}

  /// Counts of all ranks, [L, E], of the micro-batches so far; undefined before the first.
  const at::Tensor& load() const { return load_LE_; }

  /// A micro-batch of `tokens` tokens on all ranks; `step_tokens` of the step. What is returned has this rank's
  /// gradient and its share of the value.
  at::Tensor add(const std::vector<RouterStats>& routers, const std::vector<int64_t>& cu_seqlens, int64_t tokens,
                 int64_t step_tokens) {
    at::Tensor counts_LE = stacked_counts(routers);
    world_.all_reduce_sum(counts_LE, where_ + "expert counts");
    load_LE_ = load_LE_.defined() ? load_LE_ + counts_LE : counts_LE;
    counted_tokens_ += tokens;
    const auto micro_steps = static_cast<double>(options_.micro_steps);
    switch (options_.balance_form) {
      case BalanceForm::kImportanceLoad: return importance_load(routers) / micro_steps;
      case BalanceForm::kConstant:
        return of_one_rank(at::full({}, static_cast<double>(experts_) / static_cast<double>(top_k_),
                                    counts_LE.options().dtype(at::kDouble))) /
               micro_steps;
      case BalanceForm::kAuxiliary: break;
    }
    switch (options_.balance_scope) {
      case BalanceScope::kMicroBatch: break;
      case BalanceScope::kGlobalBatch:
        return balance_loss(routers, load_LE_, tokens, top_k_, counted_tokens_, options_.balance_layers) / micro_steps;
      case BalanceScope::kSequence:
        return sequence_balance_loss(routers, cu_seqlens, step_tokens, top_k_, options_.balance_layers);
    }
    return balance_loss(routers, counts_LE, tokens, top_k_, tokens, options_.balance_layers) / micro_steps;
  }

 private:
  at::Tensor importance_load(const std::vector<RouterStats>& routers) {
    const at::Tensor local_2LE = importance_and_load(routers, options_.load_estimator);
    at::Tensor all_2LE = local_2LE.detach().clone();
    world_.all_reduce_sum(all_2LE, where_ + "importance and load");
    return of_one_rank(importance_load_loss(local_2LE, all_2LE));
  }

  /// Of a value that every rank has whole: the first one's share is all of it, the others' only their gradients.
  at::Tensor of_one_rank(const at::Tensor& value) const { return world_.rank() == 0 ? value : value - value.detach(); }

  const StepOptions& options_;
  int64_t experts_, top_k_;
  std::string where_;
  Communicator& world_;
  at::Tensor load_LE_;
  int64_t counted_tokens_ = 0;
};

/// What routers add to a step's loss, micro-batch by micro-batch: their balance losses, those of FFNs and of attention
/// apart, and the z-loss of all. Collective.
class RouterLosses {
 public:
  /// `like`: on the model's device.
  RouterLosses(const StepOptions& options, const ModelConfig& config, Communicator& world, const at::Tensor& like)
      : options_(options), shares_(at::zeros({3}, like.options().dtype(at::kDouble).requires_grad(false))) {
    if (!config.moe) return;
    ffn_.emplace(options, config.moe->num_experts, config.moe->top_k, "", world);
    if (!config.moe->attention) return;
    const AttentionExperts& experts = *config.moe->attention;
    attention_.emplace(options, experts.num_routed(), experts.top_k, "attention's ", world);
  }

  /// As StepBalance::add; what is trained on is added to `loss`.
  void add_to(at::Tensor& loss, const DecoderOutput& out, const std::vector<int64_t>& cu_seqlens, int64_t tokens,
              int64_t step_tokens) {
    const auto add_balance = [&](StepBalance& balance, const std::vector<RouterStats>& routers, double coefficient,
                                 int64_t share) {
      const at::Tensor added = balance.add(routers, cu_seqlens, tokens, step_tokens);
      shares_[share] += added.detach().to(at::kDouble);
      if (coefficient != 0) loss = loss + coefficient * added;
    };
    if (!out.router.empty()) add_balance(*ffn_, out.router, options_.balance_loss, 0);
    if (!out.attention_router.empty())
      add_balance(*attention_, out.attention_router, options_.attention_balance_loss, 1);
    std::vector<RouterStats> routers = out.router;
    routers.insert(routers.end(), out.attention_router.begin(), out.attention_router.end());
    if (routers.empty() || options_.z_loss == 0) return;
    const at::Tensor z_loss = router_z_loss(routers, step_tokens);
    shares_[2] += z_loss.detach().to(at::kDouble);
    loss = loss + options_.z_loss * z_loss;
  }

  /// This rank's shares of the balance loss, that of attention and the z-loss, without coefficients. [3] double
  const at::Tensor& shares() const { return shares_; }

  /// `sums`: of the shares over all ranks.
  void tell(const double* sums, const ModelConfig& config, StepOutcome& outcome) const {
    outcome.balance_loss = sums[0];
    outcome.attention_balance_loss = sums[1];
    outcome.z_loss = sums[2];
    if (ffn_) outcome.expert_load = load_by_layer(config, ffn_->load());
    if (attention_) outcome.attention_expert_load = attention_load_by_layer(config, attention_->load());
  }

 private:
  const StepOptions& options_;
  at::Tensor shares_;
  std::optional<StepBalance> ffn_, attention_;
};

}  // namespace

StepOutcome compute_gradients(Decoder& decoder, TokenDispatcher& dispatcher, Mesh& mesh, DataLoader& loader,
                              int64_t first_row, const StepOptions& options) {
  const int64_t rows = options.micro_batch_rows;
  loader.release_before(first_row);
  const auto targets =
      static_cast<double>(std::max<int64_t>(1, loader.target_tokens(first_row, rows * options.micro_steps)));
  StepOutcome outcome;
  outcome.tokens = loader.tokens(first_row, rows * options.micro_steps);
  const ModelConfig& config = decoder.config();
  // This rank's share of the loss, which is summed over the ranks at the end with those of the routers' losses. On the
  // model's device, as all that a step measures: nothing of it is read before the last backward is on its way.
  const at::Tensor& like = decoder.parameters().front().value;
  at::Tensor loss_share = at::zeros({1}, like.options().dtype(at::kDouble));
  RouterLosses routers(options, config, mesh.world(), like);
  LayerStatistics statistics;
  const bool keeps_routing = options.reads_each_token || options.z_loss != 0 ||
                             options.balance_form == BalanceForm::kImportanceLoad ||
                             options.balance_scope == BalanceScope::kSequence;
  TokenCapacity capacity(options.capacity_factor, mesh.world());
  TokenLimit limit{.gives_input = options.dropped_give_input};
  if (options.capacity_factor > 0) {
    limit.kept = [&capacity](const at::Tensor& ids_T, int64_t num_experts, int64_t layer) {
      return capacity.kept(ids_T, num_experts, layer);
    };
  }
  NoiseSource noise = options.noise;
  int64_t tokens_before = 0;  // of the step's micro-steps before
  for (int64_t micro_step = 0; micro_step < options.micro_steps; ++micro_step) {
    const int64_t first = first_row + micro_step * rows;
    const Mesh::Share share = mesh.share_of(rows);
    const PackedBatch batch = loader.batch(first + share.first, share.count);
    const int64_t tokens = loader.tokens(first, rows), before = loader.tokens(first, share.first);
    noise.first_token = tokens_before;
    capacity.begin(noise, tokens, before);
    noise.first_token = tokens_before + before;
    const DecoderOutput out = decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher,
                                              {.statistics = &statistics,
                                               .keeps_routing = keeps_routing,
                                               .noise = noise,
                                               .choice = {options.choice, noise},
                                               .limit = limit});
    at::Tensor loss = decoder.token_losses(out.hidden_TD, batch.labels_T).sum() / targets;
    loss_share += loss.detach().to(at::kDouble);
    tokens_before += tokens;
    routers.add_to(loss, out, batch.cu_seqlens, tokens, outcome.tokens);
    if (!out.router.empty() && options.on_routing) options.on_routing(out.router);
    if (!out.attention_router.empty() && options.on_attention_routing)
      options.on_attention_routing(out.attention_router);
    loss.backward();
    if (options.on_gradients) options.on_gradients();
  }
  const at::Tensor measured_N2 = statistics.totals().to(like.device());
  at::Tensor sums = at::cat({loss_share, routers.shares(), measured_N2.flatten()});
  mesh.world().all_reduce_sum(sums, "step losses");
  // The reads of a step, for its record: these, and the expert counts.
  const at::Tensor read = sums.cpu();
  outcome.loss = read.const_data_ptr<double>()[0];
  routers.tell(read.const_data_ptr<double>() + 1, config, outcome);
  outcome.dropped_tokens = capacity.dropped();
  outcome.layers = statistics.means(read.slice(0, 1 + routers.shares().numel()).view_as(measured_N2));
  return outcome;
}

}  // namespace moe
