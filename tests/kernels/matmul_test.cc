// Products of a linear layer on every device and dtype against a triple loop in double. T tokens, I inputs, O outputs.
#include "kernels/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "kernels/test_matrix.h"

namespace moe::kernels::testing {
namespace {

using ::testing::Combine;
using ::testing::HasSubstr;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using ::testing::ThrowsMessage;
using ::testing::Values;

struct Shape {
  int64_t T, I, O;
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << "T " << shape.T << " I " << shape.I << " O " << shape.O;
}

using Case = std::tuple<DeviceType, DType, Shape>;

std::string case_name(const TestParamInfo<Case>& info) {
  const auto& [device, dtype, shape] = info.param;
  return name_of(device) + name_of(dtype) + "T" + std::to_string(shape.T) + "I" + std::to_string(shape.I) + "O" +
         std::to_string(shape.O);
}

/// c[m, n] = sum_k a(m, k) b(k, n), naively in double, with the sum of magnitudes beside it.
template <typename A, typename B>
void expect_product(int64_t M, int64_t N, int64_t K, A a, B b, const std::vector<double>& got, DType dtype) {
  ASSERT_EQ(got.size(), static_cast<size_t>(M * N));
  const Tolerance limit = tolerance(dtype);
  double worst = 0;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < K; ++k) {
        sum += a(m, k) * b(k, n);
        magnitude += std::abs(a(m, k) * b(k, n));
      }
      const double allowed = limit.sum_error * magnitude + limit.rounding * std::abs(sum);
      const double error = std::abs(got[m * N + n] - sum);
      worst = std::max(worst, allowed > 0 ? error / allowed : error > 0 ? HUGE_VAL : 0);
    }
  }
  EXPECT_LE(worst, 1) << "largest error as a share of what the tolerance table allows";
}

class LinearTest : public TestWithParam<Case> {};

TEST_P(LinearTest, ThreeProductsMatchTripleLoopInDouble) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, I, O] = shape;
  const std::vector<double> x_TI = random_values(T * I, dtype, 1);
  const std::vector<double> w_OI = random_values(O * I, dtype, 2);
  const std::vector<double> dy_TO = random_values(T * O, dtype, 3);
  TestMatrix x(device, dtype, T, I, 3, x_TI), w(device, dtype, O, I, 5, w_OI), dy(device, dtype, T, O, 1, dy_TO);
  TestMatrix y(device, dtype, T, O, 2), dx(device, dtype, T, I, 7), dw(device, dtype, O, I, 4);
  const Queue queue = queue_on(device);

  linear_forward(x.view(), w.view(), y.view(), queue);
  linear_input_gradient(dy.view(), w.view(), dx.view(), queue);
  linear_weight_gradient(dy.view(), x.view(), dw.view(), queue);

  const auto at_x = [&, I = I](int64_t t, int64_t i) { return x_TI[t * I + i]; };
  const auto at_w = [&, I = I](int64_t o, int64_t i) { return w_OI[o * I + i]; };
  const auto at_dy = [&, O = O](int64_t t, int64_t o) { return dy_TO[t * O + o]; };
  expect_product(
      T, O, I, at_x, [&](int64_t i, int64_t o) { return at_w(o, i); }, y.values(), dtype);
  expect_product(T, I, O, at_dy, at_w, dx.values(), dtype);
  expect_product(
      O, I, T, [&](int64_t o, int64_t t) { return at_dy(t, o); }, at_x, dw.values(), dtype);
}

const auto kDtypes = Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64);
const auto kShapes =
    Values(Shape{0, 8, 8}, Shape{5, 0, 7}, Shape{5, 7, 0}, Shape{1, 1, 1}, Shape{1, 43, 43}, Shape{43, 1, 43},
           Shape{43, 43, 1}, Shape{43, 43, 86}, Shape{33, 129, 65}, Shape{17, 256, 96}, Shape{200, 96, 256},
           Shape{130, 300, 270}, Shape{270, 577, 530}, Shape{3, 2048, 40});

INSTANTIATE_TEST_SUITE_P(Cpu, LinearTest, Combine(Values(DeviceType::kCpu), kDtypes, kShapes), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, LinearTest, Combine(Values(DeviceType::kCuda), kDtypes, kShapes), case_name);

TEST(LinearTest, AddsWithoutRoundingInBFloat16Sums) {
  // 1 + 4096 * 2^-12: in bf16 every addend alone would vanish beside the 1.
  const int64_t K = 4097;
  std::vector<double> ones(static_cast<size_t>(K), 1), small(static_cast<size_t>(K), std::ldexp(1, -12));
  small[0] = 1;
  TestMatrix x(DeviceType::kCpu, DType::kBFloat16, 1, K, 0, ones),
      w(DeviceType::kCpu, DType::kBFloat16, 1, K, 0, small);
  TestMatrix y(DeviceType::kCpu, DType::kBFloat16, 1, 1, 0);
  linear_forward(x.view(), w.view(), y.view());
  EXPECT_EQ(y.values().at(0), 2);
}

TEST(LinearTest, ErrorOfALongSumIsThatOfItsSlices) {
  const int64_t T = 8, K = 4608, O = 64;
  const std::vector<double> x_TK = random_values(T * K, DType::kFloat32, 1),
                            w_OK = random_values(O * K, DType::kFloat32, 2);
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, T, K, 0, x_TK), w(DeviceType::kCpu, DType::kFloat32, O, K, 0, w_OK);
  TestMatrix y(DeviceType::kCpu, DType::kFloat32, T, O, 0);
  linear_forward(x.view(), w.view(), y.view());
  const std::vector<double> got = y.values();
  double error = 0, error_of_one_run = 0;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t o = 0; o < O; ++o) {
      double exact = 0;
      float one_run = 0;
      for (int64_t k = 0; k < K; ++k) {
        exact += x_TK[t * K + k] * w_OK[o * K + k];
        one_run = std::fma(static_cast<float>(x_TK[t * K + k]), static_cast<float>(w_OK[o * K + k]), one_run);
      }
      error += std::abs(got[t * O + o] - exact);
      error_of_one_run += std::abs(static_cast<double>(one_run) - exact);
    }
  }
  EXPECT_LE(error, 0.5 * error_of_one_run) << "mean errors " << error / static_cast<double>(T * O) << " and "
                                           << error_of_one_run / static_cast<double>(T * O);
}

TEST(LinearTest, RefusesShapesThatDisagreeAndNamesThem) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 4, 6, 0), w(DeviceType::kCpu, DType::kFloat32, 3, 5, 0);
  TestMatrix y(DeviceType::kCpu, DType::kFloat32, 4, 3, 0), half(DeviceType::kCpu, DType::kBFloat16, 3, 6, 0);
  EXPECT_THAT([&] { linear_forward(x.view(), w.view(), y.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("x [4, 6] float32, weight [3, 5] float32, y [4, 3] float32")));
  EXPECT_THAT([&] { linear_input_gradient(y.view(), w.view(), x.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("dx [4, 6]")));
  EXPECT_THAT([&] { linear_weight_gradient(y.view(), x.view(), w.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("dweight [3, 5]")));
  EXPECT_THAT([&] { linear_forward(x.view(), half.view(), y.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("bfloat16")));
}

TEST(LinearTest, RefusesOverlappingRowsAndMissingData) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 4, 6, 0), w(DeviceType::kCpu, DType::kFloat32, 3, 6, 0);
  TestMatrix y(DeviceType::kCpu, DType::kFloat32, 4, 3, 0);
  MatrixView overlapping = x.view();
  overlapping.stride = 5;
  EXPECT_THAT([&] { linear_forward(overlapping, w.view(), y.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("rows would overlap")));
  MatrixView absent = w.view();
  absent.data = nullptr;
  EXPECT_THAT([&] { linear_forward(x.view(), absent, y.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("weight [3, 6] float32 has no data")));
}

}  // namespace
}  // namespace moe::kernels::testing
