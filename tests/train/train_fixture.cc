#include "train/train_fixture.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <thread>

#include "checkpoint/checkpointer.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "comm/staged_communicator.h"
#include "common/error.h"
#include "common/json_lines.h"
#include "common/log.h"
#include "model/device.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "testing/training_results.h"

namespace moe::testing {

namespace fs = std::filesystem;

TinyTraining::TinyTraining(const std::string& dtype, const std::string& kind, std::optional<int64_t> dense_layer)
    : dtype_(dtype) {
  set_log_level(LogLevel::kError);
  ModelConfig config = tiny_moe_config(/*num_experts=*/4, /*top_k=*/2, /*expert_width=*/12, /*shared_width=*/0, kind);
  if (dense_layer) config = with_dense_layer(config, *dense_layer);
  set_model(config);
  write_random_documents(folder_ / "train.jsonl", 60, 3, 40, 61, 1);
  write_random_documents(folder_ / "held.jsonl", 20, 3, 40, 61, 2);
  v1::DataSource* source = spec.add_data();
  source->set_path(folder_ / "train.jsonl");
  source->set_weight(1);
  source->set_domain("train");
  spec.set_input("model");
  spec.set_steps(10);
  spec.set_sequence_length(24);
  spec.set_micro_batch_rows(4);
  spec.set_micro_steps(2);
  spec.set_learning_rate(1e-2);
  spec.set_learning_rate_floor(0.1);
  spec.set_warmup_steps(2);
  spec.set_beta1(0.9);
  spec.set_beta2(0.95);
  spec.set_epsilon(1e-8);
  spec.set_weight_decay(0.1);
  spec.set_clip_norm(1);
  spec.set_balance_loss(0.01);
  spec.set_validate_every(0);
  spec.set_validation_tokens(200);
  spec.set_checkpoint_every(3);
  spec.set_keep_checkpoints(2);
  spec.set_append_eos(true);
  spec.set_long_documents("drop");
}

namespace {

bool is_checkpoint_being_written() {
  for (const auto& task : fs::directory_iterator("/proc/self/task")) {
    std::string name;
    if (std::getline(std::ifstream(task.path() / "comm"), name); name == kWriterName) return true;
  }
  return false;
}

/// Calls what the options have for it.
class OptionsMonitor final : public WorkMonitor {
 public:
  /// `calls` is that of all ranks: what a test is told of steps it need not lock.
  OptionsMonitor(const TinyTraining::Options& options, int rank, std::mutex& calls)
      : options_(options), rank_(rank), calls_(calls) {}

  void data_read(const std::map<std::string, std::string>& digests) override {
    if (options_.on_data_read) options_.on_data_read(digests);
  }
  void record(const StepRecord& at) override {
    while (options_.awaits_writers && is_checkpoint_being_written())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard<std::mutex> lock(calls_);
    if (options_.progress) options_.progress(at);
  }
  bool should_stop() override { return options_.should_stop && options_.should_stop(rank_); }
  void save_failed() override {
    if (options_.on_failed_save) options_.on_failed_save();
  }

 private:
  const TinyTraining::Options& options_;
  int rank_;
  std::mutex& calls_;
};

}  // namespace

fs::path TinyTraining::attempt_path(const Options& options) const {
  char name[16];
  std::snprintf(name, sizeof name, "%04d", options.attempt);
  return job(options) / "attempts" / name;
}

std::optional<TrainOutcome> TinyTraining::run(const Options& options) const {
  v1::GangSpec gang;
  gang.set_dtype(dtype_);
  gang.set_device(options.device);
  gang.set_expert_parallel(options.expert_parallel);
  std::optional<TrainOutcome> result;
  nlohmann::json configuration = options.configuration;
  CheckpointAuthority checkpoints = options.checkpoints;
  if (configuration.is_null()) {
    configuration = {{"inputs", {{"digest", options.digest}}}};
    checkpoints.is_ours = [&](const nlohmann::json& scalars) { return scalars["inputs"] == configuration["inputs"]; };
  }
  bool is_first = true;
  std::mutex mutex, calls;
  run_ranks(options.ranks, [&](Communicator& world) {
    OptionsMonitor monitor(options, world.rank(), calls);
    if (options.device == "cuda") open_cuda("", world.rank());
    const TrainRequest request{.spec = spec,
                               .gang = gang,
                               .seed = 3,
                               .model = folder_ / "model",
                               .job_path = job(options),
                               .attempt_path = attempt_path(options),
                               .output = output(options),
                               .attempt = options.attempt,
                               .configuration = configuration,
                               .checkpoints = checkpoints,
                               .monitor = monitor,
                               .recipe = options.recipe};
    std::optional<TrainOutcome> mine = train(request, *make_staged(world));
    const std::lock_guard<std::mutex> lock(mutex);
    if (!is_first) {
      EXPECT_EQ(result.has_value(), mine.has_value());
      if (result && mine) {
        EXPECT_EQ(result->metrics, mine->metrics);
      }
    }
    is_first = false;
    result = std::move(mine);
  });
  return result;
}

void TinyTraining::run_and_kill(Options options, int64_t step) const {
  struct KilledError : std::runtime_error {
    KilledError() : std::runtime_error("killed by the test") {}
  };
  options.progress = [&](const StepRecord& at) {
    if (at.step == step) throw KilledError();
  };
  EXPECT_THROW(run(options), KilledError);
}

TinyTraining::Options TinyTraining::kill_and_resume(Options options, int64_t step) const {
  run_and_kill(options, step);
  ++options.attempt;
  EXPECT_TRUE(run(options));
  return options;
}

std::vector<nlohmann::json> TinyTraining::lines(const Options& options) const {
  std::vector<nlohmann::json> lines = read_json_lines(attempt_path(options) / "metrics.jsonl");
  for (nlohmann::json& line : lines) {
    EXPECT_GT(line.at("step_seconds").get<double>(), 0);
    EXPECT_GT(line.at("tokens_per_second").get<double>(), 0);
    line.erase("step_seconds");
    line.erase("tokens_per_second");
  }
  return lines;
}

std::map<std::string, std::string> TinyTraining::weights(const Options& options) const {
  return weights_of(output(options));
}

void TinyTraining::expect_same(const Options& job, const Options& expected) const {
  EXPECT_EQ(lines(job), lines(expected)) << job.job;
  EXPECT_EQ(weights(job), weights(expected)) << job.job;
}

void TinyTraining::expect_resumes_bit_for_bit() const {
  const Options whole{.job = "whole", .ranks = 2, .expert_parallel = 2};
  ASSERT_TRUE(run(whole));
  expect_same(kill_and_resume({.job = "killed", .ranks = 2, .expert_parallel = 2}, 5), whole);
}

void TinyTraining::expect_alike_steps(const Options& job, const Options& expected) const {
  const std::vector<nlohmann::json> found = lines(job), wanted = lines(expected);
  ASSERT_EQ(found.size(), wanted.size()) << job.job;
  for (size_t i = 0; i < found.size(); ++i) {
    SCOPED_TRACE(concat(job.job, ", step ", i + 1));
    for (const char* count : {"tokens", "expert_load", "attention_expert_load", "dropped_tokens"})
      EXPECT_EQ(found[i].value(count, nlohmann::json()), wanted[i].value(count, nlohmann::json())) << count;
    for (const char* loss : {"loss", "validation_loss"}) {
      ASSERT_EQ(found[i].contains(loss), wanted[i].contains(loss)) << loss;
      if (!wanted[i].contains(loss)) continue;
      EXPECT_NEAR(found[i][loss].get<double>() / wanted[i][loss].get<double>(), 1, 1e-9) << loss;
    }
    EXPECT_NEAR(found[i]["balance_loss"], wanted[i]["balance_loss"], 1e-7);
    for (const char* least : {"least_output_share_over_mean", "least_expert_rms_over_mean"}) {
      ASSERT_EQ(found[i].contains(least), wanted[i].contains("validation_loss")) << least;
      if (!found[i].contains(least)) continue;
      EXPECT_NEAR(found[i][least], wanted[i][least], 1e-7) << least;
    }
  }
}

void TinyTraining::expect_alike_model(const Options& job, const Options& expected) const {
  const ModelDirectory found(output(job)), wanted(output(expected));
  for (const TensorSpec& tensor : logical_tensor_specs(wanted.config()))
    EXPECT_TRUE(near(found.tensor(tensor.name), wanted.tensor(tensor.name), 1e-6)) << job.job << " " << tensor.name;
}

void TinyTraining::expect_alike_on(const std::vector<std::pair<int, int>>& layouts) const {
  const Options one{.job = "one"};
  ASSERT_TRUE(run(one));
  for (const auto& [ranks, expert_parallel] : layouts) {
    const Options many{
        .job = concat("many-", ranks, "-", expert_parallel), .ranks = ranks, .expert_parallel = expert_parallel};
    ASSERT_TRUE(run(many));
    expect_alike_steps(many, one);
    expect_alike_model(many, one);
  }
}

void TinyTraining::expect_moves_between_layouts(int expert_parallel) const {
  const Options undisturbed{.job = "undisturbed"};
  ASSERT_TRUE(run(undisturbed));
  Options moved{.job = "moved"};
  run_and_kill(moved, 4);
  moved = {.job = "moved", .attempt = 2, .ranks = 2, .expert_parallel = 2};
  run_and_kill(moved, 7);
  moved = {.job = "moved", .attempt = 3, .ranks = 4, .expert_parallel = expert_parallel};
  run_and_kill(moved, 9);
  moved = {.job = "moved", .attempt = 4, .ranks = 2, .expert_parallel = 1};
  ASSERT_TRUE(run(moved));
  expect_alike_steps(moved, undisturbed);
}

void TinyTraining::set_model(const ModelConfig& config) const {
  fs::remove_all(folder_ / "model");
  write_tiny_model(folder_ / "model", config, 5, dtype_ == "float64" ? at::kDouble : at::kFloat);
}

void TinyTraining::validate(int64_t every) {
  v1::DataSource* held = spec.add_validation();
  held->set_path(folder_ / "held.jsonl");
  held->set_weight(1);
  held->set_domain("held");
  spec.set_validate_every(every);
}

std::map<std::string, at::Tensor> TinyTraining::checkpoint(const Options& options, int64_t step, int attempt) const {
  char name[32];
  std::snprintf(name, sizeof name, "s%08lld-t%04d", static_cast<long long>(step), attempt);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& entry : fs::directory_iterator(job(options) / "checkpoints" / name)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const SafetensorsEntry& tensor : file.header().entries)
      tensors[tensor.name] = file.tensor(tensor.name).clone();
  }
  return tensors;
}

}  // namespace moe::testing
