// The loss of rows of logits and its gradient, on every device and dtype, against softmax in double. T rows, V ids.
#include "kernels/cross_entropy.h"

#include <gmock/gmock.h>

#include "common/error.h"
#include "kernels/row_cases.h"

namespace moe::kernels::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kIgnored = -100;

class CrossEntropyTest : public RowCaseTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, CrossEntropyTest, row_cases(DeviceType::kCpu), row_case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, CrossEntropyTest, row_cases(DeviceType::kCuda), row_case_name);

TEST_P(CrossEntropyTest, LossesAndTheirGradientsEqualTheFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, V] = shape;
  const DType sums = sum_dtype(dtype);
  const std::vector<double> logits_TV = scaled_values(T * V, dtype, 1, 16), dlosses_T = random_values(T, sums, 2);
  std::vector<int64_t> labels_T(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) labels_T[t] = t % 3 == 2 ? kIgnored : t * 7 % V;
  TestMatrix logits(device, dtype, T, V, 3, logits_TV), dlosses(device, sums, 1, T, 0, dlosses_T);
  TestMatrix losses(device, sums, 1, T, 0), log_sums(device, sums, 1, T, 0), dlogits(device, dtype, T, V, 1);
  TestArray<int64_t> labels(device, labels_T);
  const Queue queue = queue_on(device);

  cross_entropy(logits.view(), labels.data(), kIgnored, losses.vector(), log_sums.vector(), queue);
  cross_entropy_gradient(dlosses.vector(), logits.view(), log_sums.vector(), labels.data(), kIgnored, dlogits.view(),
                         queue);

  std::vector<Expected> expected_losses(T), expected_dlogits(T * V);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t label = labels_T[t];
    if (label == kIgnored) continue;
    const double* const row = logits_TV.data() + t * V;
    double top = row[0], sum = 0;
    for (int64_t i = 0; i < V; ++i) top = std::max(top, row[i]);
    for (int64_t i = 0; i < V; ++i) sum += std::exp(row[i] - top);
    const double log_sum = top + std::log(sum);
    add(expected_losses[t], log_sum);
    add(expected_losses[t], -row[label]);
    for (int64_t i = 0; i < V; ++i) {
      const double p = std::exp(row[i] - log_sum), dloss = dlosses_T[t];
      // The exponential's argument is a difference of rounded numbers.
      const double spread = 1 + std::abs(row[i]) + std::abs(log_sum);
      expected_dlogits[t * V + i] = {(p - (i == label ? 1 : 0)) * dloss,
                                     std::abs(dloss) * (p * spread + (i == label ? 1 : 0))};
    }
  }
  expect_close("losses", losses.values(), expected_losses, sums);
  expect_close("dlogits", dlogits.values(), expected_dlogits, dtype);

  const std::vector<char> apart = dlogits.bytes();
  cross_entropy_gradient(dlosses.vector(), logits.view(), log_sums.vector(), labels.data(), kIgnored, logits.view(),
                         queue);
  EXPECT_EQ(logits.bytes(), apart) << "in the place of the logits";
}

TEST(CrossEntropyTest, RefusesALabelOutOfRangeAndNamesIt) {
  TestMatrix logits(DeviceType::kCpu, DType::kBFloat16, 2, 5, 0), losses(DeviceType::kCpu, DType::kFloat32, 1, 2, 0),
      half(DeviceType::kCpu, DType::kBFloat16, 1, 2, 0);
  const std::vector<int64_t> labels{4, 5};
  EXPECT_THAT([&] { cross_entropy(logits.view(), labels.data(), kIgnored, losses.vector(), losses.vector()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("labels[1] is 5; expected 0 to 4, or -100 for none")));
  EXPECT_THAT([&] { cross_entropy(logits.view(), labels.data(), kIgnored, half.vector(), losses.vector()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("losses [2] bfloat16; expected losses [2] float32")));
}

}  // namespace
}  // namespace moe::kernels::testing
