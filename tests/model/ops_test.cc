// Every operation against the same function written with LibTorch's own differentiable operations, in float64; and the
// promise that a row's result does not depend on the rows beside it.
#include "model/ops.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "common/error.h"
#include "model/moe/router.h"
#include "model/op_queue.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/row_bits.h"
#include "testing/same_function.h"

namespace moe {
namespace {

using testing::beside;
using testing::expect_same_function;
using testing::near;
using testing::random_normal;

class RowsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Rows, RowsTest, ::testing::Values(0, 1, 37));

TEST_P(RowsTest, LinearEqualsReference) {
  expect_same_function([](const auto& in) { return ops::linear(in[0], in[1]); },
                       [](const auto& in) { return at::matmul(in[0], in[1].t()); },
                       {random_normal({GetParam(), 43}, 1), random_normal({17, 43}, 2)});
}

TEST_P(RowsTest, SwigluEqualsReference) {
  expect_same_function([](const auto& in) { return ops::swiglu(in[0]); },
                       [](const auto& in) {
                         const std::vector<at::Tensor> halves = in[0].chunk(2, 1);
                         return halves[0] * at::sigmoid(halves[0]) * halves[1];
                       },
                       {random_normal({GetParam(), 86}, 1) * 3});
}

TEST_P(RowsTest, RmsNormEqualsReference) {
  expect_same_function([](const auto& in) { return ops::rms_norm(in[0], in[1], 1e-2); },
                       [](const auto& in) { return in[0] / at::sqrt((in[0].pow(2)).mean(1, true) + 1e-2) * in[1]; },
                       {random_normal({GetParam(), 45}, 1), random_normal({45}, 2)});
}

TEST_P(RowsTest, RopeEqualsComplexMultiplication) {
  const at::Tensor angles = random_normal({GetParam(), 4}, 3);
  expect_same_function(
      [&](const auto& in) { return ops::rope(in[0], beside(in[0], angles.cos()), beside(in[0], angles.sin())); },
      [&](const auto& in) {
        const at::Tensor pairs = at::complex(in[0].slice(2, 0, 4), in[0].slice(2, 4));
        const at::Tensor turned = pairs * at::polar(at::ones_like(angles), angles).unsqueeze(1);
        return at::cat({at::real(turned), at::imag(turned)}, 2);
      },
      {random_normal({GetParam(), 3, 8}, 1)});
}

TEST_P(RowsTest, SwigluOfTwoTensorsEqualsThePackedOne) {
  expect_same_function([](const auto& in) { return ops::swiglu(in[0], in[1]); },
                       [](const auto& in) {
                         return ops::swiglu(at::cat({in[0], in[1]}, 1));
                       },
                       {random_normal({GetParam(), 43}, 1), random_normal({GetParam(), 43}, 2)});
}

TEST_P(RowsTest, LinearCrossEntropyEqualsReference) {
  const int64_t rows = GetParam();
  at::Tensor labels = at::arange(rows, at::kLong).remainder(7);
  labels.masked_fill_(labels.eq(2), -100);
  expect_same_function([&](const auto& in) { return ops::linear_cross_entropy(in[0], in[1], beside(in[0], labels)); },
                       [&](const auto& in) {
                         const at::Tensor logits = at::matmul(in[0], in[1].t());
                         const at::Tensor kept = labels.ne(-100).to(at::kDouble),
                                          index = labels.clamp_min(0).unsqueeze(1);
                         return (at::logsumexp(logits, 1) - logits.gather(1, index).squeeze(1)) * kept;
                       },
                       {random_normal({rows, 5}, 1) * 3, random_normal({7, 5}, 2)});
}

TEST(LinearCrossEntropyTest, StaysFiniteForHugeLogitsAndShowsWhatIsNotFinite) {
  const auto loss = [](float first, float second, int64_t label) {
    return ops::linear_cross_entropy(at::ones({1, 1}), at::tensor({first, second}).view({2, 1}), at::tensor({label}))
        .item<float>();
  };
  EXPECT_FLOAT_EQ(loss(1e4f, -1e4f, 1), 2e4f);
  EXPECT_NEAR(loss(0, 0, 0), std::log(2.0), 1e-6);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_FALSE(std::isfinite(loss(bad, 0, 0))) << bad;
    EXPECT_FALSE(std::isfinite(loss(bad, 0, 1))) << bad;
  }
}

// The float exponential inside: silu over a wide range against float64.
TEST(SwigluTest, FloatIsWithinAFewRoundingsOfDouble) {
  const at::Tensor gate = at::linspace(-100, 100, 40001, at::kDouble).view({-1, 1}).to(at::kFloat);
  const at::Tensor y = ops::swiglu(gate, at::ones_like(gate)).to(at::kDouble);
  const at::Tensor expected = gate.to(at::kDouble) * at::sigmoid(gate.to(at::kDouble));
  // Absolute below 1e-30, where floats end; relative elsewhere.
  EXPECT_LT(((y - expected).abs() / (expected.abs() + 1e-30)).max().item<double>(), 1e-6);
  EXPECT_TRUE(std::isnan(ops::swiglu(at::full({1, 1}, NAN), at::ones({1, 1})).item<float>()));
}

struct Grouping {
  const char* name;
  std::vector<int64_t> rows_per_expert;
};
class GroupedLinearTest : public ::testing::TestWithParam<Grouping> {};
INSTANTIATE_TEST_SUITE_P(, GroupedLinearTest,
                         ::testing::Values(Grouping{"some", {5, 3, 9}}, Grouping{"one_without", {5, 0, 9}},
                                           Grouping{"all_on_one", {0, 0, 11}}, Grouping{"none", {0, 0, 0}}),
                         [](const auto& test) { return test.param.name; });

TEST_P(GroupedLinearTest, EqualsOneProductPerExpert) {
  const std::vector<int64_t>& counts = GetParam().rows_per_expert;
  int64_t rows = 0;
  for (const int64_t count : counts) rows += count;
  expect_same_function(
      [&](const auto& in) { return ops::grouped_linear(in[0], in[1], beside(in[0], at::tensor(counts))); },
      [&](const auto& in) {
        std::vector<at::Tensor> parts;
        const std::vector<at::Tensor> split = in[0].split_with_sizes(counts, 0);
        for (size_t e = 0; e < counts.size(); ++e) {
          parts.push_back(at::matmul(split[e], in[1][static_cast<int64_t>(e)].t()));
        }
        return at::cat(parts);
      },
      {random_normal({rows, 43}, 1), random_normal({3, 29, 43}, 2)});
}

TEST(PermuteTest, ThereAndBackEqualIndexing) {
  // 4 tokens, 2 slots; one slot is not here.
  const at::Tensor slot_rows =
      at::tensor({int64_t{3}, int64_t{0}, int64_t{1}, int64_t{4}, int64_t{-1}, int64_t{2}, int64_t{6}, int64_t{5}})
          .view({4, 2});
  const at::Tensor row_tokens =
      at::tensor({int64_t{0}, int64_t{1}, int64_t{2}, int64_t{0}, int64_t{1}, int64_t{3}, int64_t{3}});
  expect_same_function(
      [&](const auto& in) { return ops::permute(in[0], beside(in[0], row_tokens), beside(in[0], slot_rows)); },
      [&](const auto& in) { return in[0].index_select(0, row_tokens); }, {random_normal({4, 19}, 1)});
  expect_same_function(
      [&](const auto& in) { return ops::unpermute(in[0], beside(in[0], slot_rows), in[1]); },
      [&](const auto& in) {
        const at::Tensor here = slot_rows.ge(0).to(at::kDouble);
        const at::Tensor rows = in[0].index_select(0, slot_rows.clamp_min(0).flatten()).view({4, 2, 19});
        return (rows * (in[1] * here).unsqueeze(2)).sum(1);
      },
      {random_normal({7, 19}, 2), random_normal({4, 2}, 3)});
}

TEST(OpsTest, UnpermuteInBf16TakesWeightsOfEitherType) {
  const at::Tensor slot_rows = at::tensor({int64_t{2}, int64_t{0}, int64_t{1}, int64_t{-1}}).view({2, 2});
  const at::Tensor rows_RD = random_normal({3, 37}, 1, at::kBFloat16),
                   weights_TK = random_normal({2, 2}, 2, at::kBFloat16);
  const at::Tensor dy_TD = random_normal({2, 37}, 3, at::kBFloat16);
  // The same in double, from the same rounded inputs.
  const at::Tensor rows = rows_RD.to(at::kDouble), weights = weights_TK.to(at::kDouble), dy = dy_TD.to(at::kDouble);
  const at::Tensor here = slot_rows.ge(0).to(at::kDouble);
  const at::Tensor chosen = rows.index_select(0, slot_rows.clamp_min(0).flatten()).view({2, 2, 37}) * here.unsqueeze(2);
  const at::Tensor expected = (chosen * weights.unsqueeze(2)).sum(1);
  const at::Tensor expected_dweights = (chosen * dy.unsqueeze(1)).sum(2);
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const at::Tensor in = weights_TK.to(type).clone().set_requires_grad(true);
    const at::Tensor leaf = rows_RD.clone().set_requires_grad(true);
    const at::Tensor y = ops::unpermute(leaf, slot_rows, in);
    y.backward(dy_TD);
    EXPECT_LT((y.to(at::kDouble) - expected).abs().max().item<double>(), 0.02 * expected.abs().max().item<double>());
    EXPECT_EQ(in.grad().scalar_type(), type);
    EXPECT_LT((in.grad().to(at::kDouble) - expected_dweights).abs().max().item<double>(),
              0.02 * expected_dweights.abs().max().item<double>());
    EXPECT_EQ(leaf.grad().scalar_type(), at::kBFloat16);
    EXPECT_LT((leaf.grad()[2].to(at::kDouble) - weights[0][0] * dy[0]).abs().max().item<double>(), 0.05);
  }
}

/// Value and gradients in bf16, on the test's device, are those of float64 on the same numbers, rounded once;
/// `roundings` 2 where a bf16 result in between is rounded too (a product before its bias, logits before their
/// gradient).
void expect_same_in_bfloat16(const testing::TensorFunction& function, const std::vector<at::Tensor>& inputs,
                             int roundings = 1, at::ScalarType result_type = at::kBFloat16) {
  std::vector<at::Tensor> rounded, exact;
  for (const at::Tensor& input : inputs) {
    rounded.push_back(input.to(at::kBFloat16).to(testing::test_device()).requires_grad_(true));
    exact.push_back(rounded.back().detach().to(at::kCPU, at::kDouble).requires_grad_(true));
  }
  const at::Tensor ours = function(rounded), expected = function(exact);
  EXPECT_EQ(ours.scalar_type(), result_type);
  EXPECT_TRUE(near(ours.detach().cpu(), expected.detach(), roundings / 256.0));
  const at::Tensor dy = random_normal(ours.sizes().vec(), 99).to(at::kBFloat16).to(result_type);
  ours.backward(dy.to(testing::test_device()));
  expected.backward(dy.to(at::kDouble));
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(rounded[i].grad().scalar_type(), at::kBFloat16);
    EXPECT_TRUE(near(rounded[i].grad().cpu(), exact[i].grad(), roundings / 128.0)) << "gradient of input " << i;
  }
}

TEST(BFloat16Test, ProductsAndMovesOfRowsAreThoseOfFloat64Rounded) {
  expect_same_in_bfloat16([](const auto& in) { return ops::linear(in[0], in[1]); },
                          {random_normal({37, 43}, 1), random_normal({17, 43}, 2)});
  expect_same_in_bfloat16(
      [](const auto& in) {
        return ops::grouped_linear(in[0], in[1], beside(in[0], at::tensor({5, 0, 70}, at::kLong)));
      },
      {random_normal({75, 43}, 1), random_normal({3, 29, 43}, 2)});
  const at::Tensor row_tokens = at::tensor({0, 1, 2, 0, 1, 3, 3}, at::kLong),
                   slot_rows = at::tensor({3, 0, 1, 4, -1, 2, 6, 5}, at::kLong).view({4, 2});
  expect_same_in_bfloat16(
      [&](const auto& in) { return ops::permute(in[0], beside(in[0], row_tokens), beside(in[0], slot_rows)); },
      {random_normal({4, 19}, 1)});
  expect_same_in_bfloat16(
      [&](const auto& in) { return ops::sum_slots(in[0], beside(in[0], row_tokens), beside(in[0], slot_rows)); },
      {random_normal({7, 19}, 1)});
}

/// 256 and 1 are 256 in bf16.
TEST(BFloat16Test, ARowOfTheEmbeddingSumsOverItsTokensInFloat32) {
  const at::Tensor weight = random_normal({3, 5}, 1, at::kBFloat16).requires_grad_(true),
                   ids = at::ones({600}, at::kLong);
  const at::Tensor rows = ops::embedding(weight, ids);
  EXPECT_TRUE(at::equal(rows.detach(), weight.detach().index_select(0, ids)));
  rows.backward(at::ones_like(rows));
  EXPECT_EQ(weight.grad().scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(weight.grad().to(at::kFloat), at::tensor({0.F, 600.F, 0.F}).unsqueeze(1).expand({3, 5})));
}

TEST(BFloat16Test, OperationsOnRowsAreThoseOfFloat64Rounded) {
  const at::Tensor x = random_normal({37, 86}, 1), norm = random_normal({86}, 2), bias = random_normal({86}, 3);
  expect_same_in_bfloat16([](const auto& in) { return ops::linear(in[0], in[1], in[2]); },
                          {x, random_normal({86, 86}, 4), bias}, 2);
  expect_same_in_bfloat16(
      [](const auto& in) {
        return ops::grouped_linear(in[0], in[1], beside(in[0], at::tensor({5, 0, 32}, at::kLong)), in[2]);
      },
      {x, random_normal({3, 29, 86}, 4), random_normal({3, 29}, 5)}, 2);
  expect_same_in_bfloat16([](const auto& in) { return ops::add_bias(in[0], in[1]); }, {x, bias});
  expect_same_in_bfloat16([](const auto& in) { return ops::swiglu(in[0]); }, {x});
  expect_same_in_bfloat16([](const auto& in) { return ops::gelu_new(in[0]); }, {x});
  expect_same_in_bfloat16([](const auto& in) { return ops::rms_norm(in[0], in[1], 1e-5); }, {x, norm});
  expect_same_in_bfloat16([](const auto& in) { return ops::layer_norm(in[0], in[1], in[2], 1e-5); }, {x, norm, bias});
  const at::Tensor angles = random_normal({37, 4}, 6, at::kFloat), heads = random_normal({37, 4, 8}, 7);
  expect_same_in_bfloat16(
      [&](const auto& in) { return ops::rope(in[0], beside(in[0], angles.cos()), beside(in[0], angles.sin())); },
      {heads});
  expect_same_in_bfloat16(
      [](const auto& in) {
        return ops::causal_attention(in[0], in[1], in[2], {0, 1, 37});
      },
      {heads, random_normal({37, 2, 8}, 8), random_normal({37, 2, 8}, 9)});
}

// What is summed over a row stays in fp32: losses, and what the router decides by.
TEST(BFloat16Test, LossesAndRoutingAreInFloat32) {
  const at::Tensor labels = at::arange(37, at::kLong).remainder(11);
  expect_same_in_bfloat16(
      [&](const auto& in) { return ops::linear_cross_entropy(in[0], in[1], beside(in[0], labels), in[2]); },
      {random_normal({37, 43}, 1), random_normal({11, 43}, 2), random_normal({11}, 3)}, 2, at::kFloat);
  const at::Tensor x = random_normal({200, 43}, 4, at::kBFloat16), weight = random_normal({8, 43}, 5, at::kBFloat16);
  const Routing narrow = route(x, {weight}, {2}), wide = route(x.to(at::kFloat), {weight.to(at::kFloat)}, {2});
  EXPECT_TRUE(narrow.expert_ids_TK.equal(wide.expert_ids_TK));
  EXPECT_TRUE(narrow.weights_TK.equal(wide.weights_TK) && narrow.weights_TK.scalar_type() == at::kFloat);
  EXPECT_TRUE(narrow.probabilities_TE.equal(wide.probabilities_TE));
}

// A tensor of another device has no place in an operation; "meta" stands for one that this machine may not have.
TEST(OpsTest, TensorsOfDifferentDevicesAreNamedBeforeAnythingRuns) {
  const at::Tensor x = random_normal({4, 8}, 1, at::kFloat), norm = random_normal({8}, 2, at::kFloat),
                   weight = random_normal({8, 8}, 3, at::kFloat), heads = random_normal({4, 2, 4}, 4, at::kFloat),
                   angles = random_normal({4, 2}, 5, at::kFloat);
  const auto elsewhere = [](const at::Tensor& tensor) { return tensor.to(at::kMeta); };
  const at::Tensor row_tokens = at::arange(4, at::kLong), slot_rows = row_tokens.view({4, 1});
  const std::map<std::string, std::function<void()>> operations{
      {"linear: x lies on cpu, but weight on meta", [&] { ops::linear(x, elsewhere(weight)); }},
      {"linear: x lies on cpu, but bias on meta", [&] { ops::linear(x, weight, elsewhere(norm)); }},
      {"grouped_linear: rows lies on cpu, but weight on meta",
       [&] { ops::grouped_linear(x, elsewhere(weight).unsqueeze(0), at::tensor({4}, at::kLong)); }},
      {"grouped_linear: rows lies on cpu, but rows_per_expert on meta",
       [&] { ops::grouped_linear(x, weight.unsqueeze(0), elsewhere(at::tensor({4}, at::kLong))); }},
      {"add_bias: x lies on meta, but bias on cpu", [&] { ops::add_bias(elsewhere(x), norm); }},
      {"swiglu: gate lies on cpu, but up on meta", [&] { ops::swiglu(x, elsewhere(x)); }},
      {"gelu_new: x lies on meta; there are kernels for cpu and cuda", [&] { ops::gelu_new(elsewhere(x)); }},
      {"rms_norm: x lies on cpu, but weight on meta", [&] { ops::rms_norm(x, elsewhere(norm), 1e-5); }},
      {"layer_norm: x lies on cpu, but bias on meta", [&] { ops::layer_norm(x, norm, elsewhere(norm), 1e-5); }},
      {"rope: x lies on cpu, but cos on meta", [&] { ops::rope(heads, elsewhere(angles), angles); }},
      {"causal_attention: q lies on cpu, but v on meta",
       [&] {
         ops::causal_attention(heads, heads, elsewhere(heads), {0, 4});
       }},
      {"permute: x lies on cpu, but slot_rows on meta", [&] { ops::permute(x, row_tokens, elsewhere(slot_rows)); }},
      {"unpermute: rows lies on cpu, but weights on meta",
       [&] { ops::unpermute(x, slot_rows, elsewhere(x.narrow(1, 0, 1))); }},
      {"sum_slots: rows lies on meta, but row_tokens on cpu",
       [&] { ops::sum_slots(elsewhere(x), row_tokens, slot_rows); }},
      {"linear_cross_entropy: x lies on cpu, but labels on meta",
       [&] { ops::linear_cross_entropy(x, weight, elsewhere(row_tokens)); }}};
  for (const auto& [text, operation] : operations) {
    EXPECT_THAT(operation, ::testing::ThrowsMessage<InvalidArgument>(::testing::StartsWith(text)));
  }
}

/// A queue is the device and, on CUDA, the stream that is current there. The process has no CUDA: its streams are those
/// of a stand-in, its tensors memory that nothing reads.
TEST(OpsTest, TheQueueOfATensorIsTheCurrentStreamOfItsDevice) {
  struct Streams final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return c10::kCUDA; }
    c10::Device exchangeDevice(c10::Device) const override { return {c10::kCUDA, 0}; }
    c10::Device getDevice() const override { return {c10::kCUDA, current}; }
    c10::DeviceIndex current = 1;
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::UNSAFE, device, 7); }
    c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
    c10::DeviceIndex deviceCount() const noexcept override { return 2; }
    void* getStreamNativeHandle(const c10::Stream stream) const override {
      return reinterpret_cast<void*>(static_cast<uintptr_t>(100 * stream.device_index() + stream.id()));
    }
  };
  if (c10::impl::hasDeviceGuardImpl(c10::kCUDA)) GTEST_SKIP() << "a real CUDA is loaded";
  static Streams streams;
  const c10::impl::DeviceGuardImplRegistrar registrar(c10::kCUDA, &streams);
  std::vector<float> memory(4);
  const auto on = [&](c10::DeviceIndex index) {
    const c10::Device device(c10::kCUDA, index);
    return at::for_blob(memory.data(), {2, 2}).options(at::device(device)).target_device(device).make_tensor();
  };
  const kernels::Queue queue = ops::queue_of("an op", {{"x", on(1)}, {"none", at::Tensor()}});
  EXPECT_EQ(queue.device, kernels::DeviceType::kCuda);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(queue.stream), 107);
  EXPECT_THAT(
      [&] {
        ops::queue_of("an op", {{"x", on(0)}, {"y", on(1)}});
      },
      ::testing::ThrowsMessage<InvalidArgument>(
          ::testing::HasSubstr("an op: x lies on cuda:0, but y on cuda:1: move the tensors")));
  EXPECT_EQ(ops::queue_of("an op", {{"x", at::zeros({1})}}).device, kernels::DeviceType::kCpu);
  streams.current = 0;
  EXPECT_THAT(
      [&] {
        ops::queue_of("an op", {{"none", at::Tensor()}, {"x", on(1)}});
      },
      ::testing::ThrowsMessage<InvalidArgument>(
          ::testing::HasSubstr("an op: x lies on cuda:1, but the calling thread works on cuda:0: make")));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(ops::queue_of("an op", {{"x", on(0)}}).stream), 7);
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::kCUDA)] = nullptr;
}

// In fp32, whatever the width.
class RowBitsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Width, RowBitsTest, ::testing::Values(8, 43, 64, 86, 172, 256));

TEST_P(RowBitsTest, RowsDoNotDependOnTheirNeighbours) {
  const int64_t rows = 61, width = GetParam();
  const at::Tensor x = random_normal({rows, width}, 1, at::kFloat), dy = random_normal({rows, width}, 2, at::kFloat);
  const at::Tensor norm = random_normal({width}, 3, at::kFloat), weight = random_normal({width, width}, 4, at::kFloat);
  const at::Tensor angles = random_normal({rows, width / 2}, 5, at::kFloat);
  const at::Tensor labels = at::arange(rows, at::kLong).remainder(width);
  const std::map<std::string, testing::RowFunction> functions{
      {"linear", [&](const at::Tensor& in, int64_t) { return ops::linear(in, weight); }},
      {"rms_norm", [&](const at::Tensor& in, int64_t) { return ops::rms_norm(in, norm, 1e-5); }},
      {"swiglu", [&](const at::Tensor& in, int64_t) { return width % 2 == 0 ? ops::swiglu(in) : in * 1; }},
      {"rope",
       [&](const at::Tensor& in, int64_t first) {
         if (width % 2 != 0) return in * 1;
         const at::Tensor part = angles.narrow(0, first, in.size(0));
         return ops::rope(in.unsqueeze(1), part.cos(), part.sin()).squeeze(1);
       }},
      {"linear_cross_entropy", [&](const at::Tensor& in, int64_t first) {
         return ops::linear_cross_entropy(in, weight, labels.narrow(0, first, in.size(0))).unsqueeze(1);
       }}};
  testing::expect_rows_alone(functions, x, dy);
}

}  // namespace
}  // namespace moe
