// The gate of shared experts by itself; its values and gradients beside routed experts are in moe_layer_test.cc.
#include "model/moe/shared_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::random_normal;

constexpr int64_t kHidden = 32, kWidth = 24;

FeedForwardWeights shared_experts(at::ScalarType type) {
  return {random_normal({kWidth, kHidden}, 1, type), random_normal({kWidth, kHidden}, 2, type),
          random_normal({kHidden, kWidth}, 3, type)};
}

struct Gate {
  SharedGate gate;
  int64_t rows;
};
constexpr Gate kGates[] = {{SharedGate::kSoftmax, 2}, {SharedGate::kSoftmax, 3}, {SharedGate::kSigmoid, 1}};

/// As a conversion leaves it, at the scale that it takes by default.
TEST(SharedGateTest, OfZerosIsTheSharedExpertsThemselves) {
  const FeedForwardWeights shared = shared_experts(at::kFloat);
  const at::Tensor x = random_normal({40, kHidden}, 4, at::kFloat), expected = feed_forward(shared, x);
  for (const Gate& gate : kGates) {
    const double scale = gate.gate == SharedGate::kSigmoid ? 2 : static_cast<double>(gate.rows);
    const at::Tensor zeros = at::zeros({gate.rows, kHidden});
    EXPECT_TRUE(testing::near(shared_output(shared, zeros, {gate.gate, scale}, x), expected, 1e-6)) << gate.rows;
    EXPECT_TRUE(testing::near(shared_output(shared, zeros, {gate.gate, scale / 2}, x), expected / 2, 1e-6));
  }
  EXPECT_TRUE(at::equal(shared_output(shared, {}, {}, x), expected)) << "no gate";
}

TEST(SharedGateTest, TokensDoNotDependOnTheirNeighbours) {
  const FeedForwardWeights shared = shared_experts(at::kFloat);
  const at::Tensor x = random_normal({61, kHidden}, 5, at::kFloat);
  for (const Gate& gate : kGates) {
    const at::Tensor rows = random_normal({gate.rows, kHidden}, 6, at::kFloat);
    const at::Tensor all = shared_output(shared, rows, {gate.gate, 1.7}, x);
    int64_t differ = 0;
    for (int64_t t = 0; t < x.size(0); ++t) {
      differ += testing::rows_that_differ(shared_output(shared, rows, {gate.gate, 1.7}, x.narrow(0, t, 1)),
                                          all.narrow(0, t, 1));
    }
    EXPECT_EQ(differ, 0) << gate.rows;
  }
}

/// In bfloat16 the gate is in fp32: weights are not rounded to 8 bits.
TEST(SharedGateTest, Bfloat16IsNearFloat) {
  const FeedForwardWeights shared = shared_experts(at::kBFloat16);
  const FeedForwardWeights wide{shared.gate.to(at::kFloat), shared.up.to(at::kFloat), shared.down.to(at::kFloat)};
  const at::Tensor x = random_normal({40, kHidden}, 7, at::kBFloat16);
  for (const Gate& gate : kGates) {
    const at::Tensor rows = random_normal({gate.rows, kHidden}, 8, at::kBFloat16);
    const at::Tensor y = shared_output(shared, rows, {gate.gate, 2}, x);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(testing::near(y.to(at::kFloat),
                              shared_output(wide, rows.to(at::kFloat), {gate.gate, 2}, x.to(at::kFloat)), 0.02));
  }
}

TEST(SharedGateTest, ItsName) {
  EXPECT_EQ(parse_shared_gate("none"), SharedGate::kNone);
  EXPECT_EQ(parse_shared_gate("softmax"), SharedGate::kSoftmax);
  EXPECT_EQ(parse_shared_gate("sigmoid"), SharedGate::kSigmoid);
  try {
    parse_shared_gate("tanh");
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("'tanh'; expected none, softmax or sigmoid"));
  }
}

}  // namespace
}  // namespace moe
