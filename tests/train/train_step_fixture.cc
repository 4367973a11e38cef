#include "train/train_step_fixture.h"

#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/run_ranks.h"
#include "testing/tiny_files.h"
#include "train/parameter_groups.h"

namespace moe::testing {
namespace {

const std::string kRoot = source_dir();

}  // namespace

void TrainStepTest::SetUp() {
  write_random_documents(folder_ / "d.jsonl", 80, 3, 40, 61, kSeed);
}

DataLoader TrainStepTest::loader() const {
  PackingOptions packing;
  packing.sequence_length = is_chats_ ? 48 : 24;
  packing.seed = kSeed;
  packing.vocab_size = is_chats_ ? kChatVocabulary : 61;
  packing.long_chats = "split";
  if (!is_chats_) return DataLoader({{(folder_ / "d.jsonl").string(), 1, "d", 0}}, nullptr, packing);
  static const auto tokenizer = Tokenizer::from_directory(kRoot + "/examples/base-7m");
  return DataLoader({{kRoot + "/examples/data/maths.valid.jsonl", 1, "chats", 30}}, tokenizer, packing);
}

StepRun TrainStepTest::run(const ModelConfig& config, int ranks, int expert_parallel, const StepOptions& options,
                           int64_t first_row) const {
  StepRun result;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& world) {
    Mesh mesh(world, expert_parallel);
    const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
    Decoder decoder(config, at::kDouble, mesh.owned_experts(config));
    fill_random(decoder, kSeed);
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

void TrainStepTest::expect_equal(const StepRun& a, const StepRun& b) {
  EXPECT_NEAR(a.outcome.loss / b.outcome.loss, 1, 1e-12);
  EXPECT_NEAR(a.gradient_norm / b.gradient_norm, 1, 1e-10);
  EXPECT_EQ(a.outcome.tokens, b.outcome.tokens);
  EXPECT_EQ(a.outcome.expert_load, b.outcome.expert_load);
  ASSERT_EQ(a.outcome.layers.size(), b.outcome.layers.size());
  for (const auto& [name, mean] : a.outcome.layers) EXPECT_NEAR(mean / b.outcome.layers.at(name), 1, 1e-12) << name;
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, gradient] : a.gradients) EXPECT_TRUE(near(gradient, b.gradients.at(name), 1e-10)) << name;
}

ModelConfig TrainStepTest::chat_config() {
  ModelConfig config = kMoe;
  config.vocab_size = kChatVocabulary;
  return config;
}

void TrainStepTest::expect_naive_computation(const ModelConfig& config, int64_t mixtures) const {
  const StepOptions options{.micro_batch_rows = 4, .micro_steps = 3, .balance_loss = 0.3};
  const StepRun step = run(config, 1, 1, options);

  // Token by token, from the logits; balance loss from counts and probabilities by loops.
  Decoder decoder(config, at::kDouble, {0, 8});
  fill_random(decoder, kSeed);
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
      EXPECT_TRUE(near(step.gradients.at(logical.name), logical.view, 1e-11)) << logical.name;
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

}  // namespace moe::testing
