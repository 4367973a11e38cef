#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "model/decoder.h"
#include "model/moe/aux_loss.h"
#include "model/moe/importance_load.h"
#include "parallel/mesh.h"

namespace moe {

/// Tokens whose loads a balance loss counts (model/moe/aux_loss.h).
enum class BalanceScope {
  kMicroBatch,   ///< of a micro-batch, on all ranks
  kSequence,     ///< of each sequence by itself
  kGlobalBatch,  ///< of the micro-batches of the step up to the one at hand, on all ranks: what comes later in the step
                 ///< is not known when a micro-batch is differentiated (arXiv:2501.11873, 3; Megatron-LM does the same)
};
BalanceScope parse_balance_scope(const std::string& name);

/// What the balance loss is.
enum class BalanceForm {
  kAuxiliary,       ///< balance_loss of model/moe/aux_loss.h, or its form of the scope
  kImportanceLoad,  ///< model/moe/importance_load.h, of micro-batches on all ranks, summed over layers
  kConstant,        ///< E / K, without a gradient: what LLaMA-MoE v2's code comes to for any router
};
/// Of TrainSpec.balance; kAuxiliary, which is measured, for what trains on no balance loss.
BalanceForm balance_form_of(const std::string& balance);

struct StepOptions {
  int64_t micro_batch_rows = 8;          ///< rows of a global micro-batch
  int64_t micro_steps = 1;               ///< global micro-batches of a step
  double balance_loss = 0.01;            ///< coefficient; 0: it is measured, and not trained on
  double attention_balance_loss = 0.01;  ///< of attention's routers, the same
  BalanceForm balance_form = BalanceForm::kAuxiliary;
  BalanceScope balance_scope = BalanceScope::kMicroBatch;   ///< of kAuxiliary
  BalanceLayers balance_layers = BalanceLayers::kPerLayer;  ///< of kAuxiliary
  LoadEstimator load_estimator = LoadEstimator::kExact;     ///< of kImportanceLoad
  double z_loss = 0;                                        ///< coefficient
  /// Sees how FFNs routed this rank's tokens of each micro-batch; may be empty. Not called where no FFN is a mixture.
  std::function<void(const std::vector<RouterStats>&)> on_routing = {};
  /// The same of attention.
  std::function<void(const std::vector<RouterStats>&)> on_attention_routing = {};
  bool reads_each_token = false;  ///< they do: RouterStats::routing too
  /// After each micro-batch's backward; may be empty.
  std::function<void()> on_gradients = {};
  /// Of routers that have noise and of experts chosen at random; first_token is filled in.
  NoiseSource noise{};
  ExpertChoice choice = ExpertChoice::kRouter;
  double capacity_factor = 0;       ///< of FFNs' experts (parallel/token_capacity.h); 0: they take every token
  bool dropped_give_input = false;  ///< TokenLimit::gives_input
};

/// What a step measured; the same on every rank.
struct StepOutcome {
  double loss = 0;          ///< mean over the target tokens of the whole step, without balance loss and z-loss
  double balance_loss = 0;  ///< mean over micro-steps, without its coefficient; 0 for a dense model
  double attention_balance_loss = 0;  ///< of attention's routers, the same
  double z_loss = 0;                  ///< mean over tokens and routers, without its coefficient; 0 where that is 0
  int64_t tokens = 0;
  int64_t dropped_tokens = 0;                               ///< by the capacity of experts, summed over layers
  std::vector<std::vector<int64_t>> expert_load;            ///< [layers][experts], no experts in a dense one
  std::vector<std::vector<int64_t>> attention_expert_load;  ///< of attention's experts that are chosen, the same
  std::map<std::string, double> layers;  ///< means of what the layers measured (model/layer_statistics.h)
};

/// Forward and backward of one optimizer step of language modelling whose rows start at `first_row`; leaves this rank's
/// gradients in the parameters, which the ranks must still sum (parallel/gradient_sync.h). Rank r takes a contiguous
/// share of each micro-batch's rows. The loss is the sum of token losses over the target tokens of the global step, so
/// it does not depend on how rows are spread over ranks and micro-steps. Collective over mesh.world().
StepOutcome compute_gradients(Decoder& decoder, TokenDispatcher& dispatcher, Mesh& mesh, DataLoader& loader,
                              int64_t first_row, const StepOptions& options);

}  // namespace moe
