// Loss and gradients of a step do not depend on how its rows are spread, and are those of a naive computation.

#include "train/train_step.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

constexpr uint64_t kSeed = 7;

struct StepRun {
  StepOutcome outcome;
  std::map<std::string, at::Tensor> gradients;   ///< by logical name
};

class TrainStepTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_random_documents(folder_ / "d.jsonl", 80, 3, 40, 61, kSeed); }

  DataLoader loader() const {
    PackingOptions packing;
    packing.sequence_length = 24;
    packing.seed = kSeed;
    packing.vocab_size = 61;
    return DataLoader({{(folder_ / "d.jsonl").string(), 1, "d", 0}}, nullptr, packing);
  }

  StepRun run(const ModelConfig& config, int ranks, int expert_parallel, const StepOptions& options, int64_t first_row = 3) const {
    StepRun result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      Mesh mesh(world, expert_parallel);
      const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
      Decoder decoder(config, at::kDouble, config.moe ? mesh.owned_experts(config.moe->num_experts) : ExpertRange{});
      testing::fill_random(decoder, kSeed);
      decoder.set_requires_grad(true);
      DataLoader data = loader();
      const StepOutcome outcome = compute_gradients(decoder, *dispatcher, mesh, data, first_row, options);
      const std::lock_guard<std::mutex> lock(mutex);
      for (const Parameter& parameter : decoder.parameters()) {
        for (const LogicalView& logical : logical_views(parameter, parameter.value.grad())) {
          const auto [known, is_new] = result.gradients.emplace(logical.name, logical.view.clone());
          if (!is_new) {
            EXPECT_TRUE(at::equal(known->second, logical.view)) << logical.name << " differs between ranks";
          }
        }
      }
      if (world.rank() == 0) result.outcome = outcome;
    });
    return result;
  }

  static void expect_equal(const StepRun& a, const StepRun& b) {
    EXPECT_NEAR(a.outcome.loss / b.outcome.loss, 1, 1e-12);
    EXPECT_NEAR(a.outcome.gradient_norm / b.outcome.gradient_norm, 1, 1e-10);
    EXPECT_EQ(a.outcome.tokens, b.outcome.tokens);
    EXPECT_EQ(a.outcome.expert_load, b.outcome.expert_load);
    ASSERT_EQ(a.gradients.size(), b.gradients.size());
    for (const auto& [name, gradient] : a.gradients) EXPECT_TRUE(testing::near(gradient, b.gradients.at(name), 1e-10)) << name;
  }

  testing::TempDir folder_;
};

const ModelConfig kMoe = testing::tiny_moe_config(/*num_experts=*/8, /*top_k=*/2, /*expert_width=*/11);

TEST_F(TrainStepTest, IsTheNaiveComputation) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 3, .balance_loss = 0.3};
  const StepRun step = run(kMoe, 1, 1, options);

  // Row by row, sample by sample, from the logits; balance loss from counts and probabilities by loops.
  Decoder decoder(kMoe, at::kDouble, {0, 8});
  testing::fill_random(decoder, kSeed);
  decoder.set_requires_grad(true);
  LocalDispatcher dispatcher;
  DataLoader data = loader();
  at::Tensor loss_sum = at::zeros({}, at::kDouble), balance = at::zeros({}, at::kDouble);
  int64_t targets = 0, tokens = 0;
  for (int64_t micro_step = 0; micro_step < 3; ++micro_step) {
    const PackedBatch batch = data.batch(3 + 4 * micro_step, 4);
    const DecoderOutput out = decoder.forward({batch.tokens_T, batch.positions_T, batch.cu_seqlens}, dispatcher);
    const at::Tensor log_p = at::log_softmax(decoder.logits(out.hidden_TD), 1);
    for (int64_t t = 0; t < batch.labels_T.size(0); ++t, ++tokens) {
      const int64_t label = batch.labels_T[t].item<int64_t>();
      if (label < 0) continue;
      loss_sum = loss_sum - log_p[t][label];
      ++targets;
    }
    const auto batch_tokens = static_cast<double>(batch.labels_T.size(0));
    for (const RouterStats& stats : out.router) {
      for (int64_t e = 0; e < 8; ++e) {
        const double fraction = static_cast<double>(stats.tokens_per_expert_E[e].item<int64_t>()) / (2 * batch_tokens);
        balance = balance + 8 * fraction * stats.probability_sum_E[e] / batch_tokens / 2 / 3;   // 2 layers, 3 micro-steps
      }
    }
  }
  const at::Tensor loss = loss_sum / static_cast<double>(targets);
  (loss + 0.3 * balance).backward();

  EXPECT_NEAR(step.outcome.loss, loss.item<double>(), 1e-12);
  EXPECT_NEAR(step.outcome.balance_loss, balance.item<double>(), 1e-12);
  EXPECT_GE(step.outcome.balance_loss, 1 - 1e-9);
  EXPECT_EQ(step.outcome.tokens, tokens);
  double squares = 0;
  for (const Parameter& parameter : decoder.parameters()) {
    squares += parameter.value.grad().square().sum().item<double>();
    for (const LogicalView& logical : logical_views(parameter, parameter.value.grad())) {
      EXPECT_TRUE(testing::near(step.gradients.at(logical.name), logical.view, 1e-11)) << logical.name;
    }
  }
  EXPECT_NEAR(step.outcome.gradient_norm, std::sqrt(squares), 1e-11 * std::sqrt(squares));
  int64_t routed = 0;
  for (const auto& layer : step.outcome.expert_load) {
    for (const int64_t count : layer) routed += count;
  }
  EXPECT_EQ(routed, tokens * 2 * 2) << "top-2 in 2 layers";
}

TEST_F(TrainStepTest, SameForEveryLayoutOfRanks) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0.1};
  const StepRun single = run(kMoe, 1, 1, options);
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, expert parallelism " + std::to_string(expert_parallel));
    const StepRun spread = run(kMoe, ranks, expert_parallel, options);
    expect_equal(spread, single);
    EXPECT_NEAR(spread.outcome.balance_loss / single.outcome.balance_loss, 1, 1e-12);
  }
}

// The balance loss belongs to a micro-step, so it is left out here.
TEST_F(TrainStepTest, TheTokenMeanDoesNotDependOnMicroSteps) {
  const StepRun whole = run(kMoe, 1, 1, {.micro_batch_rows = 8, .micro_steps = 1, .balance_loss = 0});
  for (const auto& [rows, micro_steps] : {std::pair{4, 2}, {2, 4}, {1, 8}}) {
    SCOPED_TRACE(std::to_string(micro_steps) + " micro-steps");
    expect_equal(run(kMoe, 1, 1, {.micro_batch_rows = rows, .micro_steps = micro_steps, .balance_loss = 0}), whole);
    expect_equal(run(kMoe, 2, 2, {.micro_batch_rows = rows, .micro_steps = micro_steps, .balance_loss = 0}), whole);
  }
}

TEST_F(TrainStepTest, RanksWithoutRowsJoinIn) {
  const StepOptions options{.micro_batch_rows = 1, .micro_steps = 3, .balance_loss = 0.1};
  const StepRun single = run(kMoe, 1, 1, options);
  for (const int expert_parallel : {1, 2, 4}) {
    SCOPED_TRACE(expert_parallel);
    expect_equal(run(kMoe, 4, expert_parallel, options), single);
  }
}

TEST_F(TrainStepTest, ADenseModelHasNoBalanceLoss) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0.1};
  const StepRun single = run(testing::tiny_config(), 1, 1, options);
  EXPECT_EQ(single.outcome.balance_loss, 0);
  EXPECT_TRUE(single.outcome.expert_load.empty());
  expect_equal(run(testing::tiny_config(), 4, 1, options), single);
}

}  // namespace
}  // namespace moe
