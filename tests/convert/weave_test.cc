// Which neurons weave shares and puts together, on FFNs whose answer is known.

#include "convert/methods/weave.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "common/file_io.h"
#include "common/rng.h"
#include "convert/conversion_fixture.h"
#include "convert/planned_by.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::neurons_of;
using testing::PlannedAlone;
using testing::set_option;

constexpr int64_t kHidden = 4;

void choose_weave(PlannedAlone& layer, int experts, int shared) {
  layer.spec.mutable_ffn()->set_method("weave");
  layer.spec.mutable_ffn()->set_experts(experts);
  layer.spec.mutable_ffn()->set_shared_experts(shared);
}

/// Twelve neurons, three subjects of text. Neuron i speaks up in documents of subject i % 3, the later the louder;
/// neurons 9 to 11 are the loudest. Six documents of unequal length, subject d % 3.
PlannedAlone three_subjects() {
  at::Tensor gate = at::zeros({12, kHidden});
  for (int64_t i = 0; i < 12; ++i) gate[i][i % 3] = 0.5 + 0.25 * static_cast<double>(i) + (i >= 9 ? 5 : 0);
  const std::vector<int64_t> cu_seqlens{0, 3, 4, 9, 11, 14, 20};
  at::Tensor x = at::zeros({20, kHidden});
  for (int64_t d = 0; d < 6; ++d) x.slice(0, cu_seqlens[d], cu_seqlens[d + 1]).select(1, d % 3).fill_(2);
  PlannedAlone layer({gate, at::ones({12, kHidden}), at::ones({kHidden, 12})}, x, cu_seqlens);
  choose_weave(layer, 3, 1);
  return layer;
}

TEST(WeaveTest, LoudestNeuronsAreSharedAndSubjectsAreExperts) {
  const LayerPlan plan = three_subjects().plan();
  // The quarter that is loudest on average over documents.
  EXPECT_THAT(neurons_of(plan.shared), ElementsAre(9, 10, 11));
  ASSERT_EQ(plan.experts.size(), 3U);
  EXPECT_THAT(neurons_of(plan.experts[0]), ElementsAre(0, 3, 6));
  EXPECT_THAT(neurons_of(plan.experts[1]), ElementsAre(1, 4, 7));
  EXPECT_THAT(neurons_of(plan.experts[2]), ElementsAre(2, 5, 8));
  // Means of gate rows: (0.5 + 1.25 + 2) / 3, (0.75 + 1.5 + 2.25) / 3, (1 + 1.75 + 2.5) / 3.
  EXPECT_TRUE(testing::near(
      plan.router_ED, at::tensor({1.25, 0., 0., 0., 0., 1.5, 0., 0., 0., 0., 1.75, 0.}, at::kFloat).view({3, kHidden}),
      1e-7));
}

/// Neurons of three subjects are active in two documents of six: a standard deviation of sqrt(2) of their mean. Those
/// that are always active have none.
TEST(WeaveTest, AdaptiveSharesLessTheMoreNeuronsVary) {
  PlannedAlone layer = three_subjects();
  choose_weave(layer, 3, 0);
  const auto set = [&layer](const char* option, const char* value) { set_option(layer.spec, option, value); };
  set("shared", "adaptive");
  // All vary: 0.2 of 12 is 2.4, and 3 leaves three experts 3 each.
  EXPECT_THAT(neurons_of(layer.plan().shared), ElementsAre(9, 10, 11));
  EXPECT_EQ(layer.plan().widths().experts, (std::vector<int64_t>{3, 3, 3}));
  // Half do: 0.7 - 0.5 / 2 = 0.45 is 5.4 neurons; 6 leaves each 2.
  layer.x_TD.select(1, 3).fill_(2);
  for (int64_t i = 0; i < 6; ++i) {
    layer.ffn.gate[i].zero_();
    layer.ffn.gate[i][3] = 10 + static_cast<double>(i);
  }
  EXPECT_THAT(neurons_of(layer.plan().shared), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(layer.plan().widths().experts, (std::vector<int64_t>{2, 2, 2}));
  // None does beyond a variation of 1.5: 0.7 is 8.4; 9 leaves each 1.
  set("tau", "1.5");
  EXPECT_EQ(layer.plan().widths().shared, 9);
  set("alpha_max", "0.25");  // 3 of 12
  EXPECT_EQ(layer.plan().widths().shared, 3);
}

TEST(WeaveTest, WithoutSharedExpertsEveryNeuronIsInAnExpert) {
  PlannedAlone layer = three_subjects();
  choose_weave(layer, 3, 0);
  const LayerPlan plan = layer.plan();
  EXPECT_TRUE(plan.shared.runs.empty());
  EXPECT_THAT(neurons_of(plan.experts[1]), ElementsAre(1, 4, 7, 10));
}

/// Neurons 0 and 2 are quiet, 1 and 3 loud; 2 and 3 are heard in the second document too. Their activities by document
/// are (1.76, 0), (20, 0), (1.76, 0.39) and (20, 5.99).
TEST(WeaveTest, RowsAreDirectionsOrTakenAsTheyAre) {
  const at::Tensor gate = at::tensor({1., 0., 10., 0., 1., 0.3, 10., 3.}, at::kFloat).view({4, 2});
  PlannedAlone layer({gate, at::ones({4, 2}), at::ones({2, 4})}, at::eye(2) * 2, {0, 1, 2});
  choose_weave(layer, 2, 0);
  EXPECT_THAT(neurons_of(layer.plan().experts[0]), ElementsAre(0, 1));
  set_option(layer.spec, "rows", "plain");
  EXPECT_THAT(neurons_of(layer.plan().experts[0]), ElementsAre(0, 2));
}

/// The mean comes before the absolute value: a gate that swings from 3 to -3 has a mean of (2.858 - 0.142) / 2 = 1.358,
/// less than that of one that stays at 1.7 (1.437), though its mean absolute value, 1.5, is more. And a bias counts.
TEST(WeaveTest, ActivityIsTheAbsoluteMeanOfTheGate) {
  const at::Tensor gate = at::tensor({1., 0., 0., 0., 0., 1., 0., 0.}, at::kFloat).view({2, kHidden});
  at::Tensor x = at::zeros({8, kHidden});
  for (int64_t t = 0; t < 8; ++t) {
    x[t][0] = t % 2 == 0 ? 3 : -3;
    x[t][1] = 1.7;
  }
  PlannedAlone layer({gate, at::ones({2, kHidden}), at::ones({kHidden, 2})}, x, {0, 4, 8});
  choose_weave(layer, 1, 1);
  EXPECT_THAT(neurons_of(layer.plan().shared), ElementsAre(1));
  layer.ffn.gate_bias = at::tensor({1., 0.}, at::kFloat);
  // silu(4) = 3.928 and silu(-2) = -0.238: 1.845.
  EXPECT_THAT(neurons_of(layer.plan().shared), ElementsAre(0));
}

/// Each document counts once, whatever its length: neuron 0 is loud in one long document, neuron 1 louder in two short
/// ones.
TEST(WeaveTest, DocumentsCountAlike) {
  const at::Tensor gate = at::tensor({1., 0., 0., 0., 0., 1., 0., 0.}, at::kFloat).view({2, kHidden});
  at::Tensor x = at::zeros({12, kHidden});
  x.slice(0, 0, 10).select(1, 0).fill_(4);
  x.slice(0, 10, 12).select(1, 1).fill_(3);
  PlannedAlone layer({gate, at::ones({2, kHidden}), at::ones({kHidden, 2})}, x, {0, 10, 11, 12});
  choose_weave(layer, 1, 1);
  EXPECT_THAT(neurons_of(layer.plan().shared), ElementsAre(1));
}

TEST(WeaveTest, RanksDoNotChangeABit) {
  CounterRng rng(3, kStreamTest);
  const auto random = [&rng](at::IntArrayRef shape) {
    at::Tensor values = at::empty(shape, at::kFloat);
    for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
    return values;
  };
  std::vector<int64_t> cu_seqlens{0};
  for (int64_t d = 0; d < 9; ++d) cu_seqlens.push_back(cu_seqlens.back() + 5 + d);
  PlannedAlone layer({random({96, 16}), random({96, 16}), random({16, 96})}, random({cu_seqlens.back(), 16}),
                     cu_seqlens);
  choose_weave(layer, 5, 1);
  const LayerPlan one = layer.plan();
  for (const int ranks : {2, 4}) {
    const LayerPlan plan = layer.plan(ranks);
    EXPECT_EQ(neurons_of(plan.shared), neurons_of(one.shared)) << ranks;
    for (size_t e = 0; e < 5; ++e)
      EXPECT_EQ(neurons_of(plan.experts[e]), neurons_of(one.experts[e])) << ranks << " " << e;
    EXPECT_TRUE(at::equal(plan.router_ED, one.router_ED)) << ranks;
  }
}

using WeaveConversionTest = testing::ConversionTest;

/// All chosen at weight 1 and scale 1, and the shared part: the dense function.
TEST_F(WeaveConversionTest, SharedAndRoutedPartsAtWeightOneAreTheDenseModel) {
  v1::ConvertSpec spec = testing::convert_spec("weave", 5, 5, ids());
  spec.mutable_ffn()->set_shared_experts(3);
  testing::count_all_alike(spec);
  const nlohmann::json report = testing::convert(spec, 1, dense(), out());
  EXPECT_EQ(report["layers"][1]["shared_width"], 18);
  EXPECT_EQ(ModelDirectory(out()).config().moe->expert_widths, (std::vector<int64_t>{6, 6}));
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  EXPECT_TRUE(testing::near(testing::logits_of(out(), batch), testing::logits_of(dense(), batch), 1e-5));
}

/// Each layer its own widths: still a partition.
TEST_F(WeaveConversionTest, AdaptivePartsAtWeightOneAreTheDenseModel) {
  v1::ConvertSpec spec = testing::convert_spec("weave", 5, 5, ids());
  set_option(spec, "shared", "adaptive");
  testing::count_all_alike(spec);
  const nlohmann::json report = testing::convert(spec, 1, dense(), out());
  for (int64_t layer = 0; layer < 2; ++layer) {
    const int64_t shared = report["layers"][layer]["shared_width"];
    EXPECT_GE(shared, 48 * 2 / 10 - 3);
    EXPECT_LE(shared, 48 * 7 / 10 + 3);
    EXPECT_EQ(ModelDirectory(out()).config().moe->expert_widths[layer], (48 - shared) / 5);
    EXPECT_EQ((48 - shared) % 5, 0);
  }
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  EXPECT_TRUE(testing::near(testing::logits_of(out(), batch), testing::logits_of(dense(), batch), 1e-5));
}

TEST_F(WeaveConversionTest, RanksDoNotChangeAByte) {
  v1::ConvertSpec spec = testing::convert_spec("weave", 4, 2, ids());
  spec.mutable_ffn()->set_shared_experts(2);
  spec.mutable_calibration()->set_tokens(250);
  expect_same_files_at_any_ranks(spec, {"model.safetensors", "conversion.safetensors"});
}

TEST_F(WeaveConversionTest, Refusals) {
  v1::ConvertSpec spec = testing::convert_spec("weave", 4, 2, ids());
  testing::write_dense_model(folder_ / "phi", testing::tiny_config("phi"), 11);
  EXPECT_THAT(refusal(spec, folder_ / "phi"), AllOf(HasSubstr("weave does not apply"), HasSubstr("phi has no gate")));
  spec.mutable_ffn()->set_shared_experts(3);
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.experts 4 and ffn.shared_experts 3 together do not divide"),
                                   HasSubstr("width 48"), HasSubstr("let their sum be one of 1, 2, 3")));
  set_option(spec, "shared", "adaptive");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.shared_experts is 3"), HasSubstr("remove it")));
  spec.mutable_ffn()->set_shared_experts(0);
  set_option(spec, "alpha_max", "0.95");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.experts 4 share as few as 2 neurons"), HasSubstr("0.95")));
  set_option(spec, "shared", "fixed");
  EXPECT_THAT(refusal(spec), HasSubstr("ffn.options.alpha_max has no effect with ffn.options.shared fixed"));
  spec.mutable_ffn()->clear_options();
  write_file_atomically(folder_ / "one.jsonl", "{\"ids\": [1, 2, 3, 4]}\n");
  spec.mutable_calibration()->mutable_data(0)->set_path(folder_ / "one.jsonl");
  spec.mutable_calibration()->set_tokens(3);
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("weave"), HasSubstr("1 document"), HasSubstr("more documents")));
  EXPECT_THAT(refusal(testing::convert_spec("weave", 4, 2)),
              HasSubstr("calibration.data is empty, and ffn.method weave needs text"));
}

}  // namespace
}  // namespace moe
