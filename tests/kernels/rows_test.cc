// Operations on the elements of rows, on every device and dtype, against their formulas in double.
#include "kernels/rows.h"

#include <gmock/gmock.h>

#include "common/error.h"
#include "kernels/row_cases.h"

namespace moe::kernels::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class RowsTest : public RowCaseTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, RowsTest, row_cases(DeviceType::kCpu), row_case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, RowsTest, row_cases(DeviceType::kCuda), row_case_name);

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

TEST_P(RowsTest, SwigluAndItsGradientsEqualTheFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [R, I] = shape;
  const std::vector<double> gate_RI = scaled_values(R * I, dtype, 1, 8), up_RI = random_values(R * I, dtype, 2),
                            dy_RI = random_values(R * I, dtype, 3);
  TestMatrix gate(device, dtype, R, I, 3, gate_RI), up(device, dtype, R, I, 0, up_RI),
      dy(device, dtype, R, I, 1, dy_RI);
  TestMatrix y(device, dtype, R, I, 2), dgate(device, dtype, R, I, 5), dup(device, dtype, R, I, 0);
  const Queue queue = queue_on(device);

  swiglu(gate.view(), up.view(), y.view(), queue);
  swiglu_gradient(dy.view(), gate.view(), up.view(), dgate.view(), dup.view(), queue);

  std::vector<Expected> expected_y, expected_dgate, expected_dup;
  for (size_t i = 0; i < gate_RI.size(); ++i) {
    const double s = sigmoid(gate_RI[i]), silu = gate_RI[i] * s, dy_up = dy_RI[i] * up_RI[i];
    expected_y.push_back({silu * up_RI[i], std::abs(silu * up_RI[i])});
    expected_dgate.push_back({dy_up * (s + silu * (1 - s)), std::abs(dy_up) * (s + std::abs(silu))});
    expected_dup.push_back({dy_RI[i] * silu, std::abs(dy_RI[i] * silu)});
  }
  expect_close("y", y.values(), expected_y, dtype);
  expect_close("dgate", dgate.values(), expected_dgate, dtype);
  expect_close("dup", dup.values(), expected_dup, dtype);
}

TEST_P(RowsTest, GeluNewAndItsGradientEqualTheFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [R, I] = shape;
  const std::vector<double> x_RI = scaled_values(R * I, dtype, 1, 4), dy_RI = random_values(R * I, dtype, 2);
  TestMatrix x(device, dtype, R, I, 3, x_RI), dy(device, dtype, R, I, 0, dy_RI);
  TestMatrix y(device, dtype, R, I, 0), dx(device, dtype, R, I, 2);
  const Queue queue = queue_on(device);

  gelu_new(x.view(), y.view(), queue);
  gelu_new_gradient(dy.view(), x.view(), dx.view(), queue);

  std::vector<Expected> expected_y, expected_dx;
  for (size_t i = 0; i < x_RI.size(); ++i) {
    const double v = x_RI[i], root = std::sqrt(2 / M_PI), u = root * (v + 0.044715 * v * v * v);
    // (1 + tanh(u)) / 2, without the cancellation at -1.
    const double du = root * (1 + 3 * 0.044715 * v * v), s = sigmoid(2 * u);
    const double slope = s + 2 * v * s * (1 - s) * du;
    // The exponential's argument is rounded: its error grows with it.
    const double spread = 1 + std::abs(2 * u);
    expected_y.push_back({v * s, std::abs(v) * s * spread});
    expected_dx.push_back({dy_RI[i] * slope, std::abs(dy_RI[i]) * s * (1 + std::abs(v) * du) * spread});
  }
  expect_close("y", y.values(), expected_y, dtype);
  expect_close("dx", dx.values(), expected_dx, dtype);
}

TEST_P(RowsTest, BiasesAreAddedAndRowsSummed) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [R, I] = shape;
  const std::vector<double> y_RI = random_values(R * I, dtype, 1), bias_I = random_values(I, dtype, 2);
  TestMatrix y(device, dtype, R, I, 3, y_RI), bias(device, dtype, 1, I, 0, bias_I), sum(device, dtype, 1, I, 0);
  const Queue queue = queue_on(device);

  sum_rows(y.view(), sum.vector(), queue);
  add_bias(bias.vector(), y.view(), queue);

  std::vector<Expected> expected_y, expected_sum(I);
  for (size_t i = 0; i < y_RI.size(); ++i) {
    add(expected_sum[i % I], y_RI[i]);
    add(expected_y.emplace_back(), y_RI[i]);
    add(expected_y.back(), bias_I[i % I]);
  }
  expect_close("y", y.values(), expected_y, dtype);
  expect_close("sum", sum.values(), expected_sum, dtype);
}

TEST_P(RowsTest, RopeTurnsPairsAndPassesTheRest) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, d] = shape;
  const int64_t heads = 2, half = d / 3;
  const std::vector<double> x_TW = random_values(T * heads * d, dtype, 1),
                            angles_TH = scaled_values(T * half, DType::kFloat64, 2, 8);
  std::vector<double> cos_TH, sin_TH;
  for (const double angle : angles_TH) {
    cos_TH.push_back(rounded(std::cos(angle), sum_dtype(dtype)));
    sin_TH.push_back(rounded(std::sin(angle), sum_dtype(dtype)));
  }
  TestMatrix x(device, dtype, T, heads * d, 1, x_TW), cos(device, sum_dtype(dtype), T, half, 0, cos_TH),
      sin(device, sum_dtype(dtype), T, half, 2, sin_TH);
  for (const int direction : {1, -1}) {
    TestMatrix y(device, dtype, T, heads * d, 4);
    rope(x.view(), cos.view(), sin.view(), heads, direction, y.view(), queue_on(device));
    std::vector<Expected> expected(x_TW.size());
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t at = (t * heads + head) * d;
        for (int64_t j = 0; j < half; ++j) {
          const double c = cos_TH[t * half + j], s = direction * sin_TH[t * half + j];
          add(expected[at + j], x_TW[at + j] * c);
          add(expected[at + j], -x_TW[at + j + half] * s);
          add(expected[at + j + half], x_TW[at + j + half] * c);
          add(expected[at + j + half], x_TW[at + j] * s);
        }
        for (int64_t j = 2 * half; j < d; ++j) add(expected[at + j], x_TW[at + j]);
      }
    }
    expect_close("direction " + std::to_string(direction), y.values(), expected, dtype);
  }
}

TEST_P(RowsTest, SquaresAreSummedInDouble) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  // More than one block of 2^15 elements.
  const int64_t count = shape.rows * shape.cols * 3;
  const std::vector<double> values = random_values(count, dtype, 1);
  TestMatrix x(device, dtype, 1, count, 0, values);
  TestArray<double> sum(device, {-1});
  sum_of_squares(x.vector(), sum.data(), queue_on(device));
  long double expected = 0;
  for (const long double value : values) expected += value * value;
  const auto exact = static_cast<double>(expected);
  expect_close("sum", sum.values(), {{exact, exact}}, DType::kFloat64);
}

TEST(RowsTest, RefusesShapesAndDtypesThatDisagree) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 3, 4, 0), wide(DeviceType::kCpu, DType::kFloat32, 3, 5, 0),
      half(DeviceType::kCpu, DType::kBFloat16, 3, 4, 0), angles(DeviceType::kCpu, DType::kFloat32, 3, 2, 0);
  EXPECT_THAT([&] { swiglu(x.view(), wide.view(), x.view()); },
              ThrowsMessage<InvalidArgument>(
                  HasSubstr("swiglu: up [3, 5] float32 must have the shape and dtype of gate [3, 4] float32")));
  EXPECT_THAT([&] { gelu_new(x.view(), half.view()); }, ThrowsMessage<InvalidArgument>(HasSubstr("y [3, 4] bfloat16")));
  EXPECT_THAT(
      [&] {
        add_bias(ConstVectorView{half.view().data, DType::kBFloat16, 4}, x.view());
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("add_bias: bias [4] bfloat16; expected bias [4] float32")));
  EXPECT_THAT([&] { rope(x.view(), angles.view(), angles.view(), 2, 1, x.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("rope: x [3, 4] float32 of 2 heads, cos [3, 2] float32")));
  EXPECT_THAT([&] { rope(half.view(), half.view(), half.view(), 1, 1, half.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("an angle in float32")));
  EXPECT_THAT(
      [&] {
        sum_of_squares(ConstVectorView{x.view().data, DType::kFloat32, 12}, nullptr);
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("no place for the sum of x [12] float32")));
}

}  // namespace
}  // namespace moe::kernels::testing
