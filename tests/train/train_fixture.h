#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "model/model_config.h"
#include "testing/temp_dir.h"
#include "train/trainer.h"

namespace moe::testing {

/// A training job on a tiny mixture (top-2 of 4) and random documents, run as often as wanted, each job in a folder of
/// its own.
class TinyTraining {
 public:
  /// `kind` is a model of testing/tiny_model.h, a mixture in all its layers or all but one.
  explicit TinyTraining(const std::string& dtype = "float32", const std::string& kind = "llama",
                        std::optional<int64_t> dense_layer = std::nullopt);

  /// What run() takes besides the spec.
  struct Options {
    std::string job = "job";
    int attempt = 1;
    int ranks = 1;
    int expert_parallel = 1;
    std::string device = "cpu";              ///< "cuda": of each rank the GPU of its number
    std::string digest = "config";           ///< stands for a configuration
    nlohmann::json configuration = nullptr;  ///< a real one; then `checkpoints` says what counts
    CheckpointAuthority checkpoints = {};
    std::function<void(const StepRecord&)> progress = {};
    std::function<bool(int rank)> should_stop = {};
    std::function<void()> on_failed_save = {};
    std::function<void(const std::map<std::string, std::string>& digests)> on_data_read = {};
    /// A step ends when what is being written is, so that a checkpoint is always committed by the step after it.
    bool awaits_writers = true;
    RecipeMaker recipe = recipes().at(kDefaultRecipe);
  };
  /// On `ranks` threads; all must return the same metrics. Throws what the ranks threw.
  std::optional<TrainOutcome> run(const Options& options) const;
  /// Runs until the progress call of `step` and "kills" it there.
  void run_and_kill(Options options, int64_t step) const;
  /// Kills it so and runs its next attempt to the end, whose options these are.
  Options kill_and_resume(Options options, int64_t step) const;

  std::filesystem::path job(const Options& options) const { return folder_ / options.job; }
  std::filesystem::path output(const Options& options) const {
    return job(options) / ("output-t" + std::to_string(options.attempt));
  }
  const std::filesystem::path& folder() const { return folder_.path(); }
  /// Lines of an attempt's metrics.jsonl without what a clock says.
  std::vector<nlohmann::json> lines(const Options& options) const;
  /// File -> digest of the trained model.
  std::map<std::string, std::string> weights(const Options& options) const;
  /// Two jobs made the same steps, bit for bit, and the same model.
  void expect_same(const Options& job, const Options& expected) const;
  /// Two ranks with experts spread, killed in step 5 and run again, do what an uninterrupted job "whole" does.
  void expect_resumes_bit_for_bit() const;
  /// Two jobs of float64, on ranks laid out otherwise, made the same steps up to rounding: equal counts, losses nearly.
  void expect_alike_steps(const Options& job, const Options& expected) const;
  /// And the same model.
  void expect_alike_model(const Options& job, const Options& expected) const;
  /// The job "one" runs on one rank; on each of these numbers of ranks, by its expert parallelism, steps and model are
  /// alike.
  void expect_alike_on(const std::vector<std::pair<int, int>>& layouts) const;
  /// Every tensor of a checkpoint.
  std::map<std::string, at::Tensor> checkpoint(const Options& options, int64_t step, int attempt) const;

  /// The job "undisturbed" runs on one rank; "moved" is killed there, on two ranks, on four by this expert parallelism,
  /// and ends on two: their steps are alike.
  void expect_moves_between_layouts(int expert_parallel) const;
  /// Trains another model.
  void set_model(const ModelConfig& config) const;
  /// Has the loss on held-out documents after every so many steps.
  void validate(int64_t every);

  v1::TrainSpec spec;  ///< effective; change before run()

 private:
  std::filesystem::path attempt_path(const Options& options) const;

  TempDir folder_;
  std::string dtype_;
};

}  // namespace moe::testing
