// Losses, divergences and differences of logits that come in parts, against a softmax over all of them.
#include "model/logit_comparison.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

constexpr int64_t kTokens = 9, kVocabulary = 61;

at::Tensor labels() {
  at::Tensor labels = at::arange(kTokens, at::kLong) * 7 % kVocabulary;
  labels[2] = -100;
  labels[5] = kVocabulary - 1;
  return labels;
}

LogitComparison compared(const std::vector<at::Tensor>& logits, int64_t part) {
  LogitComparison comparison(labels(), logits.size());
  for (int64_t first = 0; first < kVocabulary; first += part) {
    std::vector<at::Tensor> some;
    for (const at::Tensor& all : logits) some.push_back(all.narrow(1, first, std::min(part, kVocabulary - first)));
    comparison.add(first, some);
  }
  return comparison;
}

class LogitComparisonTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Parts, LogitComparisonTest, ::testing::Values(1, 7, 61, 100));

TEST_P(LogitComparisonTest, IsWhatTheWholeSoftmaxSays) {
  const at::Tensor reference = testing::random_normal({kTokens, kVocabulary}, 1) * 3;
  const std::vector<at::Tensor> logits{reference, reference + testing::random_normal({kTokens, kVocabulary}, 2),
                                       testing::random_normal({kTokens, kVocabulary}, 3) * 5};
  const LogitComparison found = compared(logits, GetParam());
  const at::Tensor log_p = at::log_softmax(reference, -1), is_target = labels().ge(0);
  for (size_t model = 0; model < logits.size(); ++model) {
    const at::Tensor log_q = at::log_softmax(logits[model].to(at::kDouble), -1),
                     losses = -log_q.gather(1, labels().clamp_min(0).unsqueeze(1)).squeeze(1) * is_target;
    EXPECT_TRUE(testing::near(found.losses_T(model), losses, 1e-13)) << model;
    EXPECT_EQ(found.losses_T(model)[2].item<double>(), 0) << "no target";
    if (model == 0) continue;
    EXPECT_TRUE(testing::near(found.divergences_T(model), (log_p.exp() * (log_p - log_q)).sum(1), 1e-12)) << model;
    EXPECT_EQ(found.largest_difference(model), testing::max_difference(logits[model], reference));
  }
  EXPECT_EQ(found.largest_logit(), testing::max_abs(reference));
}

TEST_P(LogitComparisonTest, FarLogitsDoNotOverflowAndOneModelIsNotFarFromItself) {
  at::Tensor far = testing::random_normal({kTokens, kVocabulary}, 1) * 2000;
  const LogitComparison found = compared({far, far.clone(), -far}, GetParam());
  EXPECT_EQ(testing::max_abs(found.divergences_T(1)), 0);
  EXPECT_EQ(found.largest_difference(1), 0);
  const at::Tensor log_p = at::log_softmax(far, -1), log_q = at::log_softmax(-far, -1);
  EXPECT_TRUE(testing::near(found.divergences_T(2), (log_p.exp() * (log_p - log_q)).sum(1), 1e-12));
}

TEST_P(LogitComparisonTest, WhatIsNotANumberShows) {
  const at::Tensor reference = testing::random_normal({kTokens, kVocabulary}, 1);
  at::Tensor damaged = reference.clone();
  damaged[3][4] = std::nan("");
  const LogitComparison found = compared({reference, damaged}, GetParam());
  EXPECT_TRUE(std::isnan(found.largest_difference(1)));
  EXPECT_TRUE(std::isnan(found.losses_T(1)[3].item<double>()));
  EXPECT_TRUE(std::isnan(found.divergences_T(1)[3].item<double>()));
  EXPECT_TRUE(std::isfinite(found.losses_T(1)[4].item<double>()));
}

}  // namespace
}  // namespace moe
