// Loss and gradients of a step do not depend on how its rows are spread, and are those of a naive computation.

#include "train/train_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>

#include "common/error.h"
#include "data/tokenizer/tokenizer.h"
#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/parameter_groups.h"

namespace moe {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int64_t kChatVocabulary = 4096;
const std::string kRoot = MOE_SOURCE_DIR;

struct StepRun {
  StepOutcome outcome;
  double gradient_norm = 0;
  std::map<std::string, at::Tensor> gradients;  ///< by logical name
};

class TrainStepTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_random_documents(folder_ / "d.jsonl", 80, 3, 40, 61, kSeed); }

  /// Rows of random ids, in which every input has a target; or of chats, in which answers alone do.
  DataLoader loader() const {
    PackingOptions packing;
    packing.sequence_length = is_chats_ ? 48 : 24;
    packing.seed = kSeed;
    packing.vocab_size = is_chats_ ? kChatVocabulary : 61;
    packing.long_chats = "split";
    if (!is_chats_) return DataLoader({{(folder_ / "d.jsonl").string(), 1, "d", 0}}, nullptr, packing);
    static const auto tokenizer = Tokenizer::from_directory(kRoot + "/examples/base-7m");
    return DataLoader({{kRoot + "/examples/data/maths.valid.jsonl", 1, "chats", 30}}, tokenizer, packing);
  }

  StepRun run(const ModelConfig& config, int ranks, int expert_parallel, const StepOptions& options,
              int64_t first_row = 3) const {
    StepRun result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      Mesh mesh(world, expert_parallel);
      const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
      Decoder decoder(config, at::kDouble, mesh.owned_experts(config));
      testing::fill_random(decoder, kSeed);
      if (change_) change_(decoder);
      require_gradients(in_groups(decoder.parameters()));
      DataLoader data = loader();
      const StepOutcome outcome = compute_gradients(decoder, *dispatcher, mesh, data, first_row, options);
      sum_gradients(decoder.parameters(), mesh);
      const double norm = global_gradient_norm(decoder.parameters(), mesh);
      const std::lock_guard<std::mutex> lock(mutex);
      for (const Parameter& parameter : decoder.parameters()) {
        if (!parameter.value.grad().defined()) continue;  // of a selection bias
        for (const LogicalView& logical : logical_views(parameter, parameter.value.grad())) {
          const auto [known, is_new] = result.gradients.emplace(logical.name, logical.view.clone());
          if (!is_new) {
            EXPECT_TRUE(at::equal(known->second, logical.view)) << logical.name << " differs between ranks";
          }
        }
      }
      if (world.rank() != 0) return;
      result.outcome = outcome;
      result.gradient_norm = norm;
    });
    return result;
  }

  static void expect_equal(const StepRun& a, const StepRun& b) {
    EXPECT_NEAR(a.outcome.loss / b.outcome.loss, 1, 1e-12);
    EXPECT_NEAR(a.gradient_norm / b.gradient_norm, 1, 1e-10);
    EXPECT_EQ(a.outcome.tokens, b.outcome.tokens);
    EXPECT_EQ(a.outcome.expert_load, b.outcome.expert_load);
    ASSERT_EQ(a.outcome.layers.size(), b.outcome.layers.size());
    for (const auto& [name, mean] : a.outcome.layers) EXPECT_NEAR(mean / b.outcome.layers.at(name), 1, 1e-12) << name;
    ASSERT_EQ(a.gradients.size(), b.gradients.size());
    for (const auto& [name, gradient] : a.gradients)
      EXPECT_TRUE(testing::near(gradient, b.gradients.at(name), 1e-10)) << name;
  }

  /// `mixtures`: layers of the config that are.
  void expect_naive_computation(const ModelConfig& config, int64_t mixtures = 2) const;

  testing::TempDir folder_;
  bool is_chats_ = false;
  std::function<void(Decoder&)> change_{};  ///< of the model before run()'s step; may be empty
};

const ModelConfig kMoe = testing::tiny_moe_config(/*num_experts=*/8, /*top_k=*/2, /*expert_width=*/11);

ModelConfig chat_config() {
  ModelConfig config = kMoe;
  config.vocab_size = kChatVocabulary;
  return config;
}

void TrainStepTest::expect_naive_computation(const ModelConfig& config, int64_t mixtures) const {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 3, .balance_loss = 0.3};
  const StepRun step = run(config, 1, 1, options);

  // Token by token, from the logits; balance loss from counts and probabilities by loops.
  Decoder decoder(config, at::kDouble, {0, 8});
  testing::fill_random(decoder, kSeed);
  require_gradients(in_groups(decoder.parameters()));
  LocalDispatcher dispatcher;
  DataLoader data = loader();
  at::Tensor loss_sum = at::zeros({}, at::kDouble), balance = at::zeros({}, at::kDouble);
  int64_t targets = 0, tokens = 0;
  double entropy = 0, top = 0;
  const auto look = [&](int64_t layer, LayerPoint point, const at::Tensor& x) {
    if (point != LayerPoint::kFfnInput) return;
    for (const Parameter& parameter : decoder.parameters()) {
      if (parameter.id != TensorId{TensorPart::kRouter, layer}) continue;
      const at::Tensor p = at::softmax(at::matmul(x, parameter.value.t()), 1).detach();
      entropy -= (p * p.log()).sum().item<double>();
      top += std::get<0>(p.max(1)).sum().item<double>();
    }
  };
  for (int64_t micro_step = 0; micro_step < 3; ++micro_step) {
    const PackedBatch batch = data.batch(3 + 4 * micro_step, 4);
    const DecoderOutput out = decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher, {.observer = look});
    const at::Tensor log_p = at::log_softmax(decoder.logits(out.hidden_TD), 1);
    std::vector<int64_t> with_target, labels;
    for (int64_t t = 0; t < batch.labels_T.size(0); ++t, ++tokens) {
      const int64_t label = batch.labels_T[t].item<int64_t>();
      if (label < 0) continue;
      with_target.push_back(t);
      labels.push_back(label);
      ++targets;
    }
    loss_sum =
        loss_sum - log_p.index_select(0, at::tensor(with_target)).gather(1, at::tensor(labels).unsqueeze(1)).sum();
    const auto batch_tokens = static_cast<double>(batch.labels_T.size(0));
    for (const RouterStats& stats : out.router) {
      for (int64_t e = 0; e < 8; ++e) {
        const double fraction = static_cast<double>(stats.tokens_per_expert_E[e].item<int64_t>()) / (2 * batch_tokens);
        balance = balance + 8 * fraction * stats.probability_sum_E[e] / batch_tokens / mixtures / 3;  // 3 micro-steps
      }
    }
  }
  const at::Tensor loss = loss_sum / static_cast<double>(targets);
  (loss + 0.3 * balance).backward();

  EXPECT_NEAR(step.outcome.loss, loss.item<double>(), 1e-12);
  EXPECT_NEAR(step.outcome.balance_loss, balance.item<double>(), 1e-12);
  EXPECT_GE(step.outcome.balance_loss, 1 - 1e-9);
  EXPECT_EQ(step.outcome.tokens, tokens);
  EXPECT_NEAR(step.outcome.layers.at("router_entropy"), entropy / static_cast<double>(mixtures * tokens), 1e-12)
      << "a mean over the tokens of all mixtures";
  EXPECT_NEAR(step.outcome.layers.at("router_top_probability"), top / static_cast<double>(mixtures * tokens), 1e-12);
  double squares = 0;
  for (const Parameter& parameter : decoder.parameters()) {
    squares += parameter.value.grad().square().sum().item<double>();
    for (const LogicalView& logical : logical_views(parameter, parameter.value.grad())) {
      EXPECT_TRUE(testing::near(step.gradients.at(logical.name), logical.view, 1e-11)) << logical.name;
    }
  }
  EXPECT_NEAR(step.gradient_norm, std::sqrt(squares), 1e-11 * std::sqrt(squares));
  int64_t routed = 0;
  for (const auto& layer : step.outcome.expert_load) {
    for (const int64_t count : layer) routed += count;
  }
  EXPECT_EQ(routed, tokens * 2 * mixtures) << "top-2 in each mixture";
  if (is_chats_) {
    EXPECT_LT(targets, tokens * 19 / 20) << "no token is masked: this cannot tell targets from tokens";
  } else {
    EXPECT_EQ(targets, tokens);
  }
}

TEST_F(TrainStepTest, IsTheNaiveComputation) {
  expect_naive_computation(kMoe);
}

/// A layer that is dense has no share in the balance loss and no load.
TEST_F(TrainStepTest, OfAMixedModelIsTheNaiveComputationInAnyLayout) {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 2, .balance_loss = 0.1};
  for (const int64_t dense_layer : {0, 1}) {
    const ModelConfig mixed = testing::with_dense_layer(kMoe, dense_layer);
    expect_naive_computation(mixed, 1);
    const StepRun single = run(mixed, 1, 1, options);
    ASSERT_EQ(single.outcome.expert_load.size(), 2U);
    EXPECT_TRUE(single.outcome.expert_load[dense_layer].empty());
    EXPECT_EQ(single.outcome.expert_load[1 - dense_layer].size(), 8U);
    for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
      SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel, ", dense layer ", dense_layer));
      expect_equal(run(mixed, ranks, expert_parallel, options), single);
    }
  }
}

/// The loss is over targets, the balance loss over tokens: of chats they are not the same number, nor alike on every
/// rank.
TEST_F(TrainStepTest, OfChatsIsTheNaiveComputationInAnyLayout) {
  is_chats_ = true;
  expect_naive_computation(chat_config());
  const StepOptions options{.micro_batch_rows = 3, .micro_steps = 2, .balance_loss = 0.1};
  const StepRun single = run(chat_config(), 1, 1, options);
  for (const int expert_parallel : {1, 2}) expect_equal(run(chat_config(), 2, expert_parallel, options), single);
}

/// Frozen experts and a frozen embedding keep every bit through a step with weight decay, on ranks with rows and
/// without.
TEST_F(TrainStepTest, FrozenWeightsStayAsTheyAre) {
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel, ", rank ", world.rank()));
      Mesh mesh(world, expert_parallel);
      const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
      Decoder decoder(kMoe, at::kDouble, mesh.owned_experts(kMoe));
      testing::fill_random(decoder, kSeed);
      const auto is_frozen = [](const Parameter& p) {
        return p.name == "model.embed_tokens.weight" || p.name == "model.layers.0.mlp.experts.down_proj";
      };
      std::vector<at::Tensor> before;
      for (const Parameter& parameter : decoder.parameters()) before.push_back(parameter.value.detach().clone());
      require_gradients(in_groups(decoder.parameters(), [&](const Parameter& parameter) {
        return ParameterGroup{.is_trained = !is_frozen(parameter)};
      }));
      DataLoader data = loader();
      AdamW optimizer(decoder.parameters(), {.weight_decay = 0.5});
      compute_gradients(decoder, *dispatcher, mesh, data, 0,
                        {.micro_batch_rows = 2, .micro_steps = 1, .balance_loss = 0.1});
      sum_gradients(decoder.parameters(), mesh);
      optimizer.update(0.1, 1, 1);
      int frozen = 0;
      for (size_t i = 0; i < before.size(); ++i) {
        const Parameter& parameter = decoder.parameters()[i];
        EXPECT_EQ(at::equal(parameter.value.detach(), before[i]), is_frozen(parameter)) << parameter.name;
        frozen += is_frozen(parameter) ? 1 : 0;
      }
      EXPECT_EQ(frozen, 2);
    });
  }
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
/// Attention experts alone and beside a mixture; with one that every token uses; with keys of all tokens. More ranks
/// than rows: some have none.
TEST_F(TrainStepTest, OfAttentionExpertsIsTheSameForEveryLayoutOfRanks) {
  ModelConfig dense_keys = testing::with_attention_experts(testing::tiny_config(), 4, 2);
  dense_keys.moe->attention->kv_mode = "dense";
  const std::pair<const char*, ModelConfig> cases[] = {
      {"alone", testing::with_attention_experts(testing::tiny_config(), 4, 3)},
      {"beside a mixture", testing::with_attention_experts(kMoe, 4, 2)},
      {"one always on", testing::with_attention_experts(testing::tiny_config("qwen2"), 4, 2, 1)},
      {"keys of all tokens", dense_keys}};
  for (const auto& [name, config] : cases) {
    for (const int64_t rows : {2, 5}) {
      const StepOptions options{.micro_batch_rows = rows,
                                .micro_steps = 2,
                                .balance_loss = 0.1,
                                .attention_balance_loss = 0.3,
                                .z_loss = 0.01};
      const StepRun single = run(config, 1, 1, options);
      ASSERT_EQ(single.outcome.attention_expert_load.size(), 2U) << name;
      EXPECT_GE(single.outcome.attention_balance_loss, 0.99) << name;
      for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}, {4, 4}}) {
        SCOPED_TRACE(concat(name, ", ", rows, " rows, ", ranks, " ranks, expert parallelism ", expert_parallel));
        const StepRun spread = run(config, ranks, expert_parallel, options);
        expect_equal(spread, single);
        EXPECT_NEAR(spread.outcome.attention_balance_loss / single.outcome.attention_balance_loss, 1, 1e-12);
        EXPECT_EQ(spread.outcome.attention_expert_load, single.outcome.attention_expert_load);
      }
    }
  }
}

/// F2 of LLaMA-MoE v2: the last expert, which is alone on its rank, gets no token on any rank.
TEST_F(TrainStepTest, AnAttentionExpertWithoutTokensHasNoGradient) {
  ModelConfig config = testing::with_attention_experts(testing::tiny_config(), 4, 1);
  config.moe->attention->topk_norm = "raw";
  config.moe->attention->has_selection_bias = true;
  change_ = [](Decoder& decoder) {
    const at::NoGradGuard no_grad;
    for (const Parameter& parameter : decoder.parameters()) {
      if (parameter.id.part == TensorPart::kSelectionBias) parameter.value[3] = -100;
    }
  };
  const StepOptions options{.micro_batch_rows = 5, .micro_steps = 1};
  const StepRun single = run(config, 1, 1, options);
  EXPECT_EQ(single.outcome.attention_expert_load[1][3], 0);
  EXPECT_EQ(testing::max_abs(single.gradients.at("model.layers.0.self_attn.experts.3.v_proj.weight")), 0);
  EXPECT_GT(testing::max_abs(single.gradients.at("model.layers.0.self_attn.experts.0.v_proj.weight")), 0);
  expect_equal(run(config, 4, 4, options), single);
}

TEST_F(TrainStepTest, AttentionExpertsThatCannotBeSpreadAreRefused) {
  const ModelConfig config = testing::with_attention_experts(kMoe, 2, 1);
  EXPECT_THAT([&] { run(config, 4, 4, {.micro_batch_rows = 4, .micro_steps = 1}); },
              ::testing::ThrowsMessage<InvalidArgument>(
                  "expert_parallel 4 does not divide attention.num_experts 2; with 4 ranks use one of 1, 2"));
}

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

TEST_F(TrainStepTest, TheTokenMeanDoesNotDependOnMicroSteps) {
  const StepRun whole = run(kMoe, 1, 1, {.micro_batch_rows = 8, .micro_steps = 1, .balance_loss = 0});
  for (const auto& [rows, micro_steps] : {std::pair{4, 2}, {2, 4}, {1, 8}}) {
    SCOPED_TRACE(std::to_string(micro_steps) + " micro-steps");
    expect_equal(run(kMoe, 1, 1, {.micro_batch_rows = rows, .micro_steps = micro_steps, .balance_loss = 0}), whole);
    expect_equal(run(kMoe, 2, 2, {.micro_batch_rows = rows, .micro_steps = micro_steps, .balance_loss = 0}), whole);
  }
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
  std::vector<std::vector<RouterStats>> seen;
  options.on_routing = [&](const std::vector<RouterStats>& routers) { seen.push_back(routers); };
  options.reads_each_token = true;
  const StepRun step = run(kMoe, 1, 1, options);
  ASSERT_EQ(seen.size(), 3U);
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
  EXPECT_TRUE(single.outcome.layers.empty());
  expect_equal(run(testing::tiny_config(), 4, 1, options), single);
}

}  // namespace
}  // namespace moe
