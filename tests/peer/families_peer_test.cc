// Small random models of every family against transformers on the same machine: logits, gradients of all weights,
// greedy texts with the KV cache. They go through every form of RoPE (positions beyond the trained length for
// "dynamic"), biases, windows, GQA ratios, head sizes given and derived, parts of heads, tied and untied heads, and
// both spellings of config.json.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "peer/transformers_oracle.h"
#include "testing/compare.h"
#include "testing/temp_dir.h"
#include "train/parameter_groups.h"

namespace moe {
namespace {

using testing::max_abs;
using testing::max_difference;

constexpr int kModels = 24, kWithGreedyTexts = 12, kWithGradients = 3;  // as many as the oracle makes
constexpr double kAbsolute = 2e-5;
constexpr double kRelative = 1e-5;          ///< of max |logit|
constexpr double kClearGap = 1e-4;          ///< between the two best logits: the choice must be the same
constexpr double kGradientRelative = 1e-4;  ///< of the largest of the tensor

/// Logits of one token, [V].
using NextLogits = std::function<at::Tensor(const std::vector<int64_t>& tokens)>;

class FamilyPeerTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path model(int number) const { return folder_ / std::to_string(number); }
  void expect_logits() const;
  void expect_gradients() const;
  void expect_greedy_texts() const;

  const testing::TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(Families, FamilyPeerTest, ::testing::Values("llama", "qwen2", "phi"),
                         [](const auto& test) { return std::string(test.param); });

// One test, since the oracle takes the most of its time.
TEST_P(FamilyPeerTest, EqualsTransformers) {
  if (const std::string why = testing::missing_oracle(); !why.empty()) GTEST_SKIP() << why;
  testing::run_oracle({GetParam(), folder_.path().string(), std::to_string(kModels), "7"});
  if (HasFatalFailure()) return;
  expect_logits();
  expect_gradients();
  expect_greedy_texts();
}

void FamilyPeerTest::expect_logits() const {
  int within = 0;
  double worst = 0, worst_relative = 0;
  for (int number = 0; number < kModels; ++number) {
    const SafetensorsFile file(model(number) / "oracle.safetensors");
    const at::Tensor theirs = file.tensor("logits"), exact = file.tensor("logits64");
    const at::Tensor ours = testing::our_logits(model(number), file.tensor("ids"));
    const double difference = max_difference(ours, theirs), scale = max_abs(theirs);
    const ModelConfig config = ModelDirectory(model(number)).config();
    const std::string name = concat(GetParam(), " ", number, " (rope ", config.rope.type, ", ", ours.size(0),
                                    " tokens of at most ", config.max_positions, ")");
    EXPECT_EQ(testing::wrong_choices(ours, theirs, kClearGap), 0) << name;
    worst = std::max(worst, difference);
    worst_relative = std::max(worst_relative, difference / scale);
    if (difference <= kAbsolute && difference <= kRelative * scale) {
      ++within;
      continue;
    }
    // fp32 itself is not so exact here: then float64 judges both.
    testing::LogitError our_error, their_error;
    our_error.add(ours, exact);
    their_error.add(theirs, exact);
    std::cout << name << ": difference " << difference << " of max |logit| " << scale
              << "; largest error against float64: ours " << our_error.largest << ", transformers "
              << their_error.largest << "\n";
    EXPECT_LE(our_error.largest, 3 * their_error.largest) << name;
    EXPECT_LE(our_error.mean_sum, 2 * their_error.mean_sum) << name;
  }
  std::cout << GetParam() << ": " << within << " of " << kModels
            << " models within 2e-5 and 1e-5 of max |logit|; largest difference " << worst << ", relative "
            << worst_relative << "\n";
}

void FamilyPeerTest::expect_gradients() const {
  double worst = 0;
  size_t tensors = 0;
  for (int number = 0; number < kWithGradients; ++number) {
    const ModelDirectory directory(model(number));
    Decoder decoder = load_decoder(directory, at::kFloat, {0, 0});
    require_gradients(in_groups(decoder.parameters()));
    const at::Tensor ids = SafetensorsFile(model(number) / "oracle.safetensors").tensor("ids");
    const int64_t tokens = ids.size(0);
    at::Tensor labels = at::full({tokens}, -100, at::kLong);
    labels.narrow(0, 0, tokens - 1).copy_(ids.narrow(0, 1, tokens - 1));
    LocalDispatcher dispatcher;
    decoder.token_losses(decoder.forward({ids, {0, tokens}}, dispatcher).hidden_TD, labels).sum().backward();
    const SafetensorsFile theirs(model(number) / "gradients.safetensors");
    EXPECT_EQ(theirs.header().entries.size(), decoder.parameters().size());
    for (const Parameter& parameter : decoder.parameters()) {
      const at::Tensor expected = theirs.tensor(parameter.name);
      const double relative = max_difference(parameter.value.grad(), expected) / max_abs(expected);
      EXPECT_LE(relative, kGradientRelative)
          << GetParam() << " " << number << ": " << parameter.name << " of at most " << max_abs(expected);
      worst = std::max(worst, relative);
      ++tensors;
    }
  }
  std::cout << GetParam() << ": largest gradient difference " << worst << " of a tensor's largest, over " << tensors
            << " tensors\n";
}

/// The most likely tokens one after the other, as long as `expected` agrees; stops where the two best are too close to
/// tell.
int64_t agreeing_tokens(const NextLogits& next, const at::Tensor& prompt, const at::Tensor& expected) {
  std::vector<int64_t> pending(prompt.const_data_ptr<int64_t>(), prompt.const_data_ptr<int64_t>() + prompt.numel());
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const at::Tensor logits = next(pending);
    const at::Tensor best = std::get<0>(logits.topk(2));
    const int64_t token = expected[i].item<int64_t>();
    if (logits.argmax().item<int64_t>() != token)
      return (best[0] - best[1]).item<double>() > kClearGap ? i : expected.numel();
    pending = {token};
  }
  return expected.numel();
}

void FamilyPeerTest::expect_greedy_texts() const {
  int64_t compared = 0;
  for (int number = 0; number < kWithGreedyTexts; ++number) {
    const at::NoGradGuard no_grad;
    const ModelDirectory directory(model(number));
    const Decoder decoder = load_decoder(directory, at::kFloat, {0, 0});
    LocalDispatcher dispatcher;
    const SafetensorsFile greedy(model(number) / "greedy.safetensors");
    for (int i = 0; i < 2; ++i) {
      const at::Tensor prompt = greedy.tensor(concat("prompt", i)), text = greedy.tensor(concat("text", i));
      KvCache cache;
      const auto with_cache = [&](const std::vector<int64_t>& tokens) {
        const auto count = static_cast<int64_t>(tokens.size());
        const TokenBatch batch{at::tensor(tokens, at::kLong), {0, count}};
        return decoder.logits(decoder.forward(batch, dispatcher, {.cache = &cache}).hidden_TD)[count - 1];
      };
      EXPECT_EQ(agreeing_tokens(with_cache, prompt, text), text.numel())
          << GetParam() << " " << number << ", prompt " << i;
      compared += text.numel();
      // Stretched keys stay as they were in the cache: there the whole sequence at once is another function.
      const ModelConfig& config = decoder.config();
      if (config.rope.type == "dynamic" && prompt.numel() + text.numel() > config.max_positions) continue;
      std::vector<int64_t> all;
      const auto whole = [&](const std::vector<int64_t>& tokens) {
        all.insert(all.end(), tokens.begin(), tokens.end());
        const auto count = static_cast<int64_t>(all.size());
        return decoder.logits(
            decoder.forward({at::tensor(all, at::kLong), {0, count}}, dispatcher).hidden_TD)[count - 1];
      };
      EXPECT_EQ(agreeing_tokens(whole, prompt, text), text.numel())
          << GetParam() << " " << number << ", prompt " << i << ", without cache";
    }
  }
  std::cout << GetParam() << ": " << compared << " greedy tokens\n";
}

}  // namespace
}  // namespace moe
