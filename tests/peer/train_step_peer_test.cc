// Whole optimizer steps against PyTorch: loss, balance loss, gradient norm, every gradient, and after three steps of
// AdamW every weight and both moments. In float64, on chats whose prompts are no targets, with one rank and with
// experts spread over two.
#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "peer/transformers_oracle.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/run_ranks.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/parameter_groups.h"
#include "train/train_step.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kSteps = 3, kVocabulary = 4096;
constexpr double kTolerance = 1e-9;  ///< of the largest of the tensor
const StepOptions kOptions{.micro_batch_rows = 3, .micro_steps = 2, .balance_loss = 0.05};
constexpr AdamWOptions kAdamW{.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-6, .weight_decay = 0.2};
constexpr double kClipNorm = 0.5, kRates[kSteps] = {1e-2, 5e-3, 2e-2};

struct Case {
  const char* name;
  const char* topk_norm;
  int64_t top_k, shared_width;
};
constexpr Case kCases[] = {{"renorm", "renorm", 2, 12},
                           {"straight_through_2", "straight_through", 2, 0},
                           {"straight_through_1", "straight_through", 1, 0},
                           {"raw", "raw", 3, 0}};

DataLoader loader() {
  const std::string root = testing::source_dir();
  PackingOptions packing;
  packing.sequence_length = 40;
  packing.seed = 5;
  packing.vocab_size = kVocabulary;
  packing.long_chats = "split";
  static const auto tokenizer = Tokenizer::from_directory(root + "/examples/base-7m");
  return DataLoader({{root + "/examples/data/maths.valid.jsonl", 1, "chats", 20}}, tokenizer, packing);
}

std::vector<int64_t> numbers(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<int64_t>(), tensor.const_data_ptr<int64_t>() + tensor.numel()};
}

/// What the oracle reads: the same rows and options.
void write_case(const std::filesystem::path& folder, const Case& c) {
  std::filesystem::create_directory(folder);
  ModelConfig config = testing::tiny_moe_config(/*num_experts=*/4, c.top_k, /*expert_width=*/12, c.shared_width);
  config.vocab_size = config.source["vocab_size"] = kVocabulary;
  config.moe->topk_norm = c.topk_norm;
  config.moe->output_scale = {1.5, 0.75};
  testing::write_tiny_model(folder / "model", config, 3, at::kDouble);
  DataLoader data = loader();
  json steps = json::array();
  int64_t masked = 0;
  for (int64_t row = 0; row < kSteps * kOptions.micro_steps * kOptions.micro_batch_rows;
       row += kOptions.micro_batch_rows) {
    const PackedBatch batch = data.batch(row, kOptions.micro_batch_rows);
    masked += batch.labels_T.eq(-100).sum().item<int64_t>();
    if (row % (kOptions.micro_steps * kOptions.micro_batch_rows) == 0) steps.push_back(json::array());
    steps.back().push_back(
        {{"tokens", numbers(batch.tokens_T)}, {"labels", numbers(batch.labels_T)}, {"cu_seqlens", batch.cu_seqlens}});
  }
  ASSERT_GT(masked, 50) << "every token is a target: the count of targets is not tested";
  write_file_atomically(folder / "case.json", json{{"steps", steps},
                                                   {"balance_loss", kOptions.balance_loss},
                                                   {"beta1", kAdamW.beta1},
                                                   {"beta2", kAdamW.beta2},
                                                   {"epsilon", kAdamW.epsilon},
                                                   {"weight_decay", kAdamW.weight_decay},
                                                   {"clip_norm", kClipNorm},
                                                   {"learning_rates", kRates}}
                                                  .dump());
}

void expect_oracle(const std::filesystem::path& folder, Communicator& world, int expert_parallel) {
  const SafetensorsFile oracle(folder / "oracle.safetensors");
  const ModelDirectory directory(folder / "model");
  Mesh mesh(world, expert_parallel);
  const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
  Decoder decoder = load_decoder(directory, at::kDouble, mesh.owned_experts(directory.config()));
  require_gradients(in_groups(decoder.parameters()));
  AdamW optimizer(decoder.parameters(), kAdamW);
  DataLoader data = loader();
  const auto number = [&](const std::string& name, int64_t step) {
    return oracle.tensor(concat(name, ".", step)).item<double>();
  };
  for (int64_t step = 0; step < kSteps; ++step) {
    SCOPED_TRACE(concat("step ", step));
    optimizer.zero_gradients();
    const StepOutcome outcome = compute_gradients(decoder, *dispatcher, mesh, data,
                                                  step * kOptions.micro_batch_rows * kOptions.micro_steps, kOptions);
    sum_gradients(decoder.parameters(), mesh);
    const double norm = global_gradient_norm(decoder.parameters(), mesh);
    EXPECT_NEAR(outcome.loss, number("loss", step), kTolerance * outcome.loss);
    EXPECT_NEAR(outcome.balance_loss, number("balance", step), kTolerance * outcome.balance_loss);
    EXPECT_NEAR(norm, number("norm", step), kTolerance * norm);
    EXPECT_GT(norm, kClipNorm) << "clipping is not tested";
    for (const Parameter& parameter : decoder.parameters()) {
      for (const LogicalView& logical : logical_views(parameter, parameter.value.grad())) {
        EXPECT_TRUE(testing::near(logical.view, oracle.tensor(concat(logical.name, ".grad.", step)), kTolerance))
            << logical.name;
      }
    }
    optimizer.update(kRates[step], std::min(1.0, kClipNorm / (norm + 1e-6)), step + 1);
  }
  for (size_t i = 0; i < decoder.parameters().size(); ++i) {
    const Parameter& parameter = decoder.parameters()[i];
    const std::pair<const char*, at::Tensor> parts[] = {
        {"", parameter.value.detach()}, {".m", optimizer.first_moments()[i]}, {".v", optimizer.second_moments()[i]}};
    for (const auto& [suffix, storage] : parts) {
      for (const LogicalView& logical : logical_views(parameter, storage)) {
        EXPECT_TRUE(testing::near(logical.view, oracle.tensor(logical.name + suffix), kTolerance))
            << logical.name << suffix;
      }
    }
  }
}

// One test, since starting PyTorch takes the most of its time.
TEST(TrainStepPeerTest, EqualsPyTorch) {
  if (const std::string why = testing::missing_oracle(); !why.empty()) GTEST_SKIP() << why;
  const testing::TempDir folder;
  std::vector<std::string> command{testing::peer_python().string(),
                                   testing::source_dir() + "/tests/peer/train_step_oracle.py"};
  for (const Case& c : kCases) {
    write_case(folder / c.name, c);
    if (HasFatalFailure()) return;
    command.push_back((folder / c.name).string());
  }
  const testing::ProcessResult result = testing::run_process(command);
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  for (const Case& c : kCases) {
    for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}}) {
      SCOPED_TRACE(concat(c.name, ", ", ranks, " ranks, expert parallelism ", expert_parallel));
      testing::run_ranks(ranks,
                         [&, ep = expert_parallel](Communicator& world) { expect_oracle(folder / c.name, world, ep); });
    }
  }
}

}  // namespace
}  // namespace moe
