// Balance and z losses of a step: over what they are means, in any layout, and what is kept for them.
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"
#include "train/train_step_fixture.h"

namespace moe {
namespace {

using testing::kMoe;
using testing::StepRun;
using testing::TrainStepTest;

/// By loops, from what the routers said.
TEST_F(TrainStepTest, TheBalanceLossOfAttentionIsItsOwn) {
  StepOptions options{.micro_batch_rows = 4, .micro_steps = 1, .balance_loss = 0, .attention_balance_loss = 0.5};
  std::vector<RouterStats> seen;
  options.on_attention_routing = [&](const std::vector<RouterStats>& routers) { seen = routers; };
  options.reads_each_token = true;
  const ModelConfig config = testing::with_attention_experts(kMoe, 4, 2, 1);
  const StepRun step = run(config, 1, 1, options);
  ASSERT_EQ(seen.size(), 2U);
  double expected = 0;
  for (size_t layer = 0; layer < 2; ++layer) {
    const at::Tensor &ids = seen[layer].routing.expert_ids_TK, &p = seen[layer].routing.probabilities_TE;
    ASSERT_EQ(p.size(1), 3) << "the one that is always on is not chosen";
    const auto tokens = static_cast<double>(p.size(0));
    for (int64_t e = 0; e < 3; ++e) {
      const auto count = ids.eq(e).sum().item<double>();
      EXPECT_EQ(count, static_cast<double>(step.outcome.attention_expert_load[layer][e]));
      expected += 3 * count / (2 * tokens) * p.select(1, e).sum().item<double>() / tokens / 2;
    }
  }
  EXPECT_NEAR(step.outcome.attention_balance_loss, expected, 1e-12);
  options.attention_balance_loss = 0;
  const StepRun without = run(config, 1, 1, options);
  EXPECT_FALSE(testing::near(step.gradients.at("model.layers.1.self_attn.router.weight"),
                             without.gradients.at("model.layers.1.self_attn.router.weight"), 1e-3));
}

/// Each scope in any layout; those that count no micro-batch alone do not depend on micro-steps either.
TEST_F(TrainStepTest, ScopesAndZLossAreTheSameForEveryLayoutOfRanks) {
  const StepOptions plain{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0.1};
  const StepRun of_micro_batches = run(kMoe, 1, 1, plain);
  EXPECT_EQ(of_micro_batches.outcome.z_loss, 0);
  for (const BalanceScope scope : {BalanceScope::kMicroBatch, BalanceScope::kSequence, BalanceScope::kGlobalBatch}) {
    SCOPED_TRACE(static_cast<int>(scope));
    StepOptions options = plain;
    options.balance_scope = scope;
    options.z_loss = 0.01;
    const StepRun single = run(kMoe, 1, 1, options);
    EXPECT_GT(single.outcome.z_loss, 0.1);
    EXPECT_EQ(single.outcome.loss, of_micro_batches.outcome.loss) << "the loss of tokens is none of them";
    EXPECT_EQ(single.outcome.balance_loss == of_micro_batches.outcome.balance_loss, scope == BalanceScope::kMicroBatch);
    EXPECT_FALSE(at::equal(single.gradients.at("model.layers.0.mlp.router.weight"),
                           of_micro_batches.gradients.at("model.layers.0.mlp.router.weight")));
    for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
      SCOPED_TRACE(ranks);
      const StepRun spread = run(kMoe, ranks, expert_parallel, options);
      expect_equal(spread, single);
      EXPECT_NEAR(spread.outcome.balance_loss / single.outcome.balance_loss, 1, 1e-12);
      EXPECT_NEAR(spread.outcome.z_loss / single.outcome.z_loss, 1, 1e-12);
    }
    if (scope != BalanceScope::kSequence) continue;
    options.micro_batch_rows = 2;
    options.micro_steps = 4;
    expect_equal(run(kMoe, 1, 1, options), single);
  }
}

/// Over one micro-batch the global batch is that micro-batch; over several, each sees the counts of those before it.
TEST_F(TrainStepTest, TheGlobalBatchCountsTheStepSoFar) {
  StepOptions options{.micro_batch_rows = 4, .micro_steps = 1, .balance_loss = 0.1};
  const StepRun micro = run(kMoe, 1, 1, options);
  options.balance_scope = BalanceScope::kGlobalBatch;
  const StepRun global = run(kMoe, 1, 1, options);
  EXPECT_EQ(global.outcome.balance_loss, micro.outcome.balance_loss);
  for (const auto& [name, gradient] : micro.gradients) EXPECT_TRUE(at::equal(gradient, global.gradients.at(name)));

  options.micro_steps = 3;
  int backwards = 0;
  std::vector<std::vector<RouterStats>> seen;
  options.on_routing = [&](const std::vector<RouterStats>& routers) { seen.push_back(routers); };
  options.reads_each_token = true;
  options.on_gradients = [&] { ++backwards; };
  const StepRun step = run(kMoe, 1, 1, options);
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_EQ(backwards, 3);
  double expected = 0;
  for (size_t layer = 0; layer < 2; ++layer) {
    std::vector<double> counts(8, 0);
    double tokens = 0;
    for (const std::vector<RouterStats>& routers : seen) {
      const at::Tensor& p = routers[layer].routing.probabilities_TE;
      const auto of_this = static_cast<double>(p.size(0));
      tokens += of_this;
      for (int64_t e = 0; e < 8; ++e) {
        counts[e] += routers[layer].routing.expert_ids_TK.eq(e).sum().item<double>();
        expected += 8 * counts[e] / (2 * tokens) * p.select(1, e).sum().item<double>() / of_this / 2 / 3;
      }
    }
  }
  EXPECT_NEAR(step.outcome.balance_loss, expected, 1e-12);
}

/// What nothing reads is not held through the step.
TEST_F(TrainStepTest, EachTokensRoutingIsKeptWhereItIsRead) {
  using Change = std::function<void(StepOptions&)>;
  const std::vector<std::pair<bool, Change>> cases{
      {false, [](StepOptions&) {}},
      {false, [](StepOptions& options) { options.balance_scope = BalanceScope::kGlobalBatch; }},
      {true, [](StepOptions& options) { options.balance_scope = BalanceScope::kSequence; }},
      {true, [](StepOptions& options) { options.z_loss = 0.1; }},
      {true, [](StepOptions& options) { options.reads_each_token = true; }}};
  for (size_t i = 0; i < cases.size(); ++i) {
    StepOptions options{.micro_batch_rows = 4, .micro_steps = 1, .balance_loss = 0.1};
    cases[i].second(options);
    int seen = 0;
    options.on_routing = [&](const std::vector<RouterStats>& routers) {
      for (const RouterStats& router : routers) {
        EXPECT_EQ(router.routing.probabilities_TE.defined(), cases[i].first) << "case " << i;
        EXPECT_EQ(router.routing.logits_TE.defined(), cases[i].first) << "case " << i;
        ++seen;
      }
    };
    run(kMoe, 1, 1, options);
    EXPECT_EQ(seen, 2) << "a router of each layer";
  }
}

TEST_F(TrainStepTest, ABalanceLossOfZeroIsMeasuredAlone) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0};
  EXPECT_GE(run(kMoe, 1, 1, options).outcome.balance_loss, 1 - 1e-9);
  EXPECT_THROW(parse_balance_scope("token"), InvalidArgument);
}

TEST_F(TrainStepTest, ADenseModelHasNoBalanceLoss) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0.1};
  const StepRun single = run(testing::tiny_config(), 1, 1, options);
  EXPECT_EQ(single.outcome.balance_loss, 0);
  EXPECT_TRUE(single.outcome.expert_load.empty());
  EXPECT_TRUE(single.outcome.layers.empty());
  expect_equal(run(testing::tiny_config(), 4, 1, options), single);
}

}  // namespace
}  // namespace moe
