#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/tensor_range.h"
#include "train/parameter_groups.h"

/// What is trained, and on what: the part of a training that the loop (trainer.h) does not know. The loop has the
/// steps, the optimizer and its schedule, records, checkpoints and stops; it sums the gradients of the ranks, clips
/// them and leaves out steps that are not finite. A recipe (recipes.h has the list) has a model, data, a loss and an
/// output.
namespace moe {

/// What the forward and backward passes of one step came to; the same on every rank.
struct RecipeStep {
  double loss = 0;        ///< what curves and gates show; a step whose loss is not finite changes no weight
  double total_loss = 0;  ///< with all that is added to it: what was trained on
  int64_t tokens = 0;     ///< of all ranks
  std::map<std::string, double> statistics;  ///< of the recipe's own, by the names of common/measures.h
  /// Routed tokens, [layers][experts]; no experts in a dense layer; empty if there are none.
  std::vector<std::vector<int64_t>> expert_load;
  std::vector<std::vector<int64_t>> attention_expert_load{};  ///< the same of attention's experts that are chosen
};

/// What held-out data came to.
struct Validation {
  double loss = 0;  ///< over all of it
  std::map<std::string, double> domains;
  std::map<std::string, double> statistics{};  ///< what else was measured, by the name of its measure
  nlohmann::json expert_vitality{};            ///< as of StepRecord
};

/// What the lines of metrics.jsonl come to. Rank 0 has it read them all, in order, those of earlier attempts included.
class RunSummary {
 public:
  virtual ~RunSummary() = default;
  virtual void add(const nlohmann::json& line) = 0;
  /// Behind the last line: adds its numbers to `metrics`, which gates may name, and to `details`, which reports draw.
  virtual void finish(nlohmann::json& metrics, nlohmann::json& details) = 0;
};

/// One kind of training. Made by every rank together and used by one thread; what is collective says so, and is called
/// by all ranks alike.
class Recipe {
 public:
  virtual ~Recipe() = default;

  /// The weights that this rank holds, those that are not trained included: the same at every call.
  virtual TrainedParameters& parameters() = 0;

  /// Path -> XXH3-128 of every data file as it was read.
  virtual std::map<std::string, std::string> data_digests() const = 0;

  /// Forward and backward passes of the step after `finished` ones; leaves in the parameters this rank's gradients,
  /// whose sum over the ranks is the gradient of the loss. Collective.
  virtual RecipeStep step(int64_t finished) = 0;

  /// Of each of parameters() the updates of the optimizer in which step() gave it no gradient because it stands still
  /// at first: those are not its own. Empty: none has any.
  virtual std::vector<int64_t> missed_updates() const { return {}; }

  /// The optimizer has changed the weights after the last step(); it has not where that was skipped. Collective.
  virtual void after_update() {}

  /// Nothing where there is no held-out data. Collective; must not touch what step() depends on.
  virtual std::optional<Validation> validate() = 0;

  /// What a checkpoint after `finished` steps keeps of it besides the weights, under names that the loop does not use
  /// (save() in trainer.cc has those): with the weights it is all that the next step depends on.
  virtual nlohmann::json state(int64_t finished) = 0;
  /// Tensors of that state: saved from and loaded into, under names that no weight has.
  virtual std::vector<TensorRange> state_tensors() { return {}; }
  /// Goes on where the scalars of a checkpoint, the loop's included, left it. Collective; throws agreed errors.
  virtual void restore(const nlohmann::json& scalars) = 0;

  virtual std::unique_ptr<RunSummary> summary() const = 0;

  /// Writes what the training is for: whole, or nothing. Collective.
  virtual void write_output() = 0;
};

}  // namespace moe
