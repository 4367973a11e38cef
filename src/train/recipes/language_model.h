#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "eval/perplexity.h"
#include "parallel/mesh.h"
#include "runtime/loaded_model.h"
#include "train/recipe.h"
#include "train/selection_balance.h"
#include "train/train_request.h"
#include "train/working_weights.h"

namespace moe {

/// Next-token prediction on packed documents and chats, with what balances routers (TrainSpec.balance): continual
/// pre-training and supervised post-training, whose only difference is the data. Its output is a model directory.
class LanguageModel final : public Recipe {
 public:
  /// Loads model, tokenizer, training and held-out data. `group_of`: how each weight is trained, all alike if empty.
  /// Collective; throws agreed errors.
  LanguageModel(const TrainRequest& request, Mesh& mesh, const GroupOf& group_of = {});

  TrainedParameters& parameters() override { return parameters_; }
  std::map<std::string, std::string> data_digests() const override;
  /// Measures balance_loss, z_loss where it is trained on, and what the layers measure.
  RecipeStep step(int64_t finished) override;
  std::vector<int64_t> missed_updates() const override;
  void after_update() override;
  std::optional<Validation> validate() override;
  nlohmann::json state(int64_t finished) override;
  void restore(const nlohmann::json& scalars) override;
  std::unique_ptr<RunSummary> summary() const override;
  void write_output() override;

 private:
  void begin_masters();
  void read_data();
  void freeze_routers(bool are_frozen);
  int64_t first_row(int64_t finished) const;

  const TrainRequest& request_;
  const v1::TrainSpec& spec_;
  Mesh& mesh_;
  LoadedModel model_;                                  ///< what computes
  std::optional<Decoder> masters_;                     ///< where it computes in a type in which weights are not kept
  TrainedParameters parameters_;                       ///< the masters', or of the decoder that computes
  std::optional<WorkingWeights> working_;              ///< beside masters
  std::optional<SelectionBalance> selection_balance_;  ///< where the spec balances so
  std::optional<SelectionBalance> attention_selection_balance_;  ///< the same, of attention's routers
  bool are_routers_frozen_ = false;                              ///< in the step at hand
  int64_t frozen_updates_ = 0;                                   ///< of the optimizer, while routers were frozen
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<HeldOutData> held_out_;
  std::string chat_template_;  ///< name; empty: none that we know, and no chats
  std::string jinja_;          ///< text to write beside the model, where it has none or another
};

}  // namespace moe
