// Moving rows to expert order and back, on every device and dtype. T tokens, D hidden, K slots, R rows.
#include "kernels/permute.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

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
  int64_t T, D, K;
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << "T " << shape.T << " D " << shape.D << " K " << shape.K;
}
using Case = std::tuple<DeviceType, DType, Shape>;

std::string case_name(const TestParamInfo<Case>& info) {
  const auto& [device, dtype, shape] = info.param;
  return name_of(device) + name_of(dtype) + "T" + std::to_string(shape.T) + "D" + std::to_string(shape.D) + "K" +
         std::to_string(shape.K);
}

/// A random routing: every (token, slot) that is here has a row of its own, one slot in five is not here.
struct Routing {
  std::vector<int64_t> slot_rows;   // [T, K]
  std::vector<int64_t> row_tokens;  // [R]
  int64_t R;
};

Routing random_routing(int64_t T, int64_t K, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<int64_t> here;
  for (int64_t slot = 0; slot < T * K; ++slot) {
    if (generator() % 5 != 0) {
      here.push_back(slot);
    }
  }
  std::shuffle(here.begin(), here.end(), generator);
  Routing routing{std::vector<int64_t>(static_cast<size_t>(T * K), -1), {}, static_cast<int64_t>(here.size())};
  for (const int64_t slot : here) {
    routing.slot_rows[slot] = static_cast<int64_t>(routing.row_tokens.size());
    routing.row_tokens.push_back(slot / K);
  }
  return routing;
}

/// Weights that lie in a vector, [tokens, slots].
template <typename T>
ConstMatrixView weights_view(const std::vector<T>& weights, int64_t slots) {
  const auto tokens = static_cast<int64_t>(weights.size()) / slots;
  return {weights.data(), sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32, tokens, slots, slots};
}

class PermuteTest : public TestWithParam<Case> {};

TEST_P(PermuteTest, RowsAreCopiesOfTheirTokens) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, D, K] = shape;
  const Routing routing = random_routing(T, K, 11);
  const std::vector<double> x_TD = random_values(T * D, dtype, 1);
  TestMatrix x(device, dtype, T, D, 3, x_TD), rows(device, dtype, routing.R, D, 1);
  TestArray<int64_t> row_tokens(device, routing.row_tokens);

  permute(x.view(), row_tokens.data(), rows.view(), queue_on(device));

  std::vector<double> expected;
  for (const int64_t token : routing.row_tokens) {
    expected.insert(expected.end(), x_TD.begin() + token * D, x_TD.begin() + (token + 1) * D);
  }
  EXPECT_EQ(rows.values(), expected);
}

TEST_P(PermuteTest, TokensAreWeightedSumsOfTheirRows) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, D, K] = shape;
  const Routing routing = random_routing(T, K, 12);
  const std::vector<double> rows_RD = random_values(routing.R * D, dtype, 2);
  const std::vector<double> weights_TK = random_values(T * K, sum_dtype(dtype), 3);
  // Aligned rows take wide loads on CUDA, others do not: both are tried.
  for (const int64_t padding : {0, 1, 8}) {
    TestMatrix rows(device, dtype, routing.R, D, padding, rows_RD);
    TestMatrix weights(device, sum_dtype(dtype), T, K, 0, weights_TK);
    TestArray<int64_t> slot_rows(device, routing.slot_rows);
    for (const bool has_weights : {true, false}) {
      TestMatrix y(device, dtype, T, D, padding);
      unpermute(rows.view(), slot_rows.data(), K, has_weights ? weights.view() : MatrixView{}, y.view(),
                queue_on(device));
      const std::vector<double> got = y.values();
      const Tolerance limit = tolerance(dtype);
      double worst = 0;
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t d = 0; d < D; ++d) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < K; ++k) {
            if (const int64_t r = routing.slot_rows[t * K + k]; r >= 0) {
              const double term = (has_weights ? weights_TK[t * K + k] : 1) * rows_RD[r * D + d];
              sum += term;
              magnitude += std::abs(term);
            }
          }
          worst = std::max(
              worst, std::abs(got[t * D + d] - sum) - limit.sum_error * magnitude - limit.rounding * std::abs(sum));
        }
      }
      EXPECT_LE(worst, 0) << "error above what the tolerance table allows; padding " << padding << ", weights "
                          << has_weights;
    }
  }
}

TEST_P(PermuteTest, GradientsMatchTheirFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, D, K] = shape;
  const Routing routing = random_routing(T, K, 13);
  const std::vector<double> dy_TD = random_values(T * D, dtype, 4);
  const std::vector<double> rows_RD = random_values(routing.R * D, dtype, 5);
  const std::vector<double> weights_TK = random_values(T * K, sum_dtype(dtype), 6);
  for (const int64_t padding : {0, 1, 8}) {
    TestMatrix dy(device, dtype, T, D, padding, dy_TD), rows(device, dtype, routing.R, D, padding, rows_RD);
    TestMatrix drows(device, dtype, routing.R, D, padding), weights(device, sum_dtype(dtype), T, K, 0, weights_TK);
    TestMatrix dweights(device, sum_dtype(dtype), T, K, 0);
    TestArray<int64_t> slot_rows(device, routing.slot_rows);

    unpermute_gradient(dy.view(), rows.view(), slot_rows.data(), K, weights.view(), drows.view(), dweights.view(),
                       queue_on(device));

    const Tolerance limit = tolerance(dtype);
    const std::vector<double> got_drows = drows.values(), got_dweights = dweights.values();
    double worst = 0;
    for (int64_t slot = 0; slot < T * K; ++slot) {
      const int64_t r = routing.slot_rows[slot], t = slot / K;
      double sum = 0, magnitude = 0;
      for (int64_t d = 0; r >= 0 && d < D; ++d) {
        const double term = dy_TD[t * D + d] * rows_RD[r * D + d];
        sum += term;
        magnitude += std::abs(term);
        const double expected = weights_TK[slot] * dy_TD[t * D + d];
        worst = std::max(
            worst, std::abs(got_drows[r * D + d] - expected) - (limit.sum_error + limit.rounding) * std::abs(expected));
      }
      worst = std::max(worst, std::abs(got_dweights[slot] - sum) - limit.sum_error * magnitude);
    }
    EXPECT_LE(worst, 0) << "error above what the tolerance table allows; padding " << padding;
  }
}

const auto kDtypes = Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64);
const auto kShapes = Values(Shape{0, 8, 2}, Shape{1, 1, 1}, Shape{3, 0, 2}, Shape{5, 43, 1}, Shape{43, 43, 2},
                            Shape{37, 64, 3}, Shape{300, 96, 2}, Shape{129, 1032, 8});
INSTANTIATE_TEST_SUITE_P(Cpu, PermuteTest, Combine(Values(DeviceType::kCpu), kDtypes, kShapes), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, PermuteTest, Combine(Values(DeviceType::kCuda), kDtypes, kShapes), case_name);

TEST(PermuteTest, GradientsMatchFiniteDifferences) {
  // L = <c, unpermute(rows, weights)> is linear in rows and in weights, so a central difference is exact but for
  // rounding.
  const int64_t T = 6, D = 5, K = 2;
  const DType dtype = DType::kFloat64;
  const Routing routing = random_routing(T, K, 21);
  const std::vector<double> c_TD = random_values(T * D, dtype, 1);
  std::vector<double> rows_RD = random_values(routing.R * D, dtype, 2);
  std::vector<double> weights_TK = random_values(T * K, dtype, 3);
  const auto loss = [&] {
    TestMatrix rows(DeviceType::kCpu, dtype, routing.R, D, 0, rows_RD), y(DeviceType::kCpu, dtype, T, D, 0);
    unpermute(rows.view(), routing.slot_rows.data(), K, weights_view(weights_TK, K), y.view());
    const std::vector<double> got = y.values();
    return std::inner_product(c_TD.begin(), c_TD.end(), got.begin(), 0.0);
  };
  TestMatrix dy(DeviceType::kCpu, dtype, T, D, 0, c_TD), rows(DeviceType::kCpu, dtype, routing.R, D, 0, rows_RD);
  TestMatrix drows(DeviceType::kCpu, dtype, routing.R, D, 0);
  std::vector<double> dweights(weights_TK.size());
  unpermute_gradient(dy.view(), rows.view(), routing.slot_rows.data(), K, weights_view(weights_TK, K), drows.view(),
                     {dweights.data(), dtype, T, K, K});

  const auto expect_slope = [&](std::vector<double>& inputs, const std::vector<double>& gradient) {
    constexpr double kStep = 1e-3;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const double before = inputs[i];
      inputs[i] = before + kStep;
      const double up = loss();
      inputs[i] = before - kStep;
      const double down = loss();
      inputs[i] = before;
      EXPECT_NEAR((up - down) / (2 * kStep), gradient[i], 1e-11);
    }
  };
  expect_slope(rows_RD, drows.values());
  expect_slope(weights_TK, dweights);
}

TEST(PermuteTest, UnpermuteUndoesPermuteBitForBit) {
  const int64_t T = 64, D = 43;
  const std::vector<double> x_TD = random_values(T * D, DType::kFloat32, 1);
  std::vector<int64_t> row_tokens(static_cast<size_t>(T)), slot_rows(static_cast<size_t>(T));
  std::iota(row_tokens.begin(), row_tokens.end(), 0);
  std::shuffle(row_tokens.begin(), row_tokens.end(), std::mt19937_64(5));
  for (int64_t r = 0; r < T; ++r) {
    slot_rows[row_tokens[r]] = r;
  }
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, T, D, 0, x_TD), rows(DeviceType::kCpu, DType::kFloat32, T, D, 2);
  TestMatrix back(DeviceType::kCpu, DType::kFloat32, T, D, 1);
  permute(x.view(), row_tokens.data(), rows.view());
  unpermute(rows.view(), slot_rows.data(), 1, {}, back.view());
  EXPECT_EQ(back.bytes(), x.bytes());
}

TEST(PermuteTest, TwoTermsHaveTheSameBitsInEitherOrder) {
  const int64_t T = 200, D = 96, K = 2;
  const Routing routing = random_routing(T, K, 31);
  const std::vector<double> weights_TK = random_values(T * K, DType::kFloat32, 3);
  std::vector<float> weights(weights_TK.begin(), weights_TK.end()), swapped_weights = weights;
  std::vector<int64_t> swapped = routing.slot_rows;
  for (int64_t t = 0; t < T; ++t) {
    std::swap(swapped[2 * t], swapped[2 * t + 1]);
    std::swap(swapped_weights[2 * t], swapped_weights[2 * t + 1]);
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    TestMatrix rows(DeviceType::kCpu, dtype, routing.R, D, 0, random_values(routing.R * D, dtype, 2));
    TestMatrix y(DeviceType::kCpu, dtype, T, D, 0), other(DeviceType::kCpu, dtype, T, D, 0);
    unpermute(rows.view(), routing.slot_rows.data(), K, weights_view(weights, K), y.view());
    unpermute(rows.view(), swapped.data(), K, weights_view(swapped_weights, K), other.view());
    EXPECT_EQ(y.bytes(), other.bytes()) << name_of(dtype);
  }
}

TEST(PermuteTest, RefusesIndicesOutOfRangeAndNamesThem) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 3, 4, 0), rows(DeviceType::kCpu, DType::kFloat32, 2, 4, 0);
  const std::vector<int64_t> tokens{0, 3}, slots{0, 1, 2};
  EXPECT_THAT([&] { permute(x.view(), tokens.data(), rows.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("row_tokens[1] is 3; expected 0 to 2")));
  EXPECT_THAT([&] { unpermute(rows.view(), slots.data(), 1, {}, x.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("slot_rows[2] is 2; expected -1 to 1")));
}

TEST(PermuteTest, RefusesShapesThatDisagree) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 3, 4, 0), rows(DeviceType::kCpu, DType::kFloat32, 2, 5, 0);
  TestMatrix half(DeviceType::kCpu, DType::kBFloat16, 2, 4, 0), none(DeviceType::kCpu, DType::kFloat32, 0, 4, 0);
  const std::vector<int64_t> tokens{0, 1}, slots{0, 1, -1};
  EXPECT_THAT([&] { permute(x.view(), tokens.data(), rows.view()); },
              ThrowsMessage<InvalidArgument>(
                  HasSubstr("x [3, 4] float32 and rows [2, 5] float32 must have the same columns and dtype")));
  EXPECT_THAT([&] { unpermute(half.view(), slots.data(), 1, {}, x.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("bfloat16")));
  EXPECT_THAT([&] { permute(none.view(), tokens.data(), x.view()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("no token to copy")));
}

TEST(PermuteTest, RefusesWeightsOfAnotherTypeOrShape) {
  TestMatrix y(DeviceType::kCpu, DType::kBFloat16, 3, 4, 0), rows(DeviceType::kCpu, DType::kBFloat16, 2, 4, 0);
  TestMatrix half(DeviceType::kCpu, DType::kBFloat16, 3, 1, 0), wide(DeviceType::kCpu, DType::kFloat32, 3, 2, 0);
  TestMatrix apart(DeviceType::kCpu, DType::kFloat32, 3, 1, 5), right(DeviceType::kCpu, DType::kFloat32, 3, 1, 0);
  const std::vector<int64_t> slots{0, 1, -1};
  const auto forward = [&](MatrixView weights) { unpermute(rows.view(), slots.data(), 1, weights, y.view()); };
  const auto gradient = [&](MatrixView dweights) {
    unpermute_gradient(y.view(), rows.view(), slots.data(), 1, right.view(), rows.view(), dweights);
  };
  EXPECT_NO_THROW(forward(right.view()));
  EXPECT_THAT([&] { forward(half.view()); },
              ThrowsMessage<InvalidArgument>(
                  HasSubstr("weights [3, 1] bfloat16 with rows 1 elements apart; expected weights [3, 1] float32")));
  EXPECT_THAT([&] { forward(wide.view()); }, ThrowsMessage<InvalidArgument>(HasSubstr("weights [3, 2] float32")));
  EXPECT_THAT([&] { forward(apart.view()); }, ThrowsMessage<InvalidArgument>(HasSubstr("with rows 6 elements apart")));
  EXPECT_THAT([&] { gradient(half.view()); }, ThrowsMessage<InvalidArgument>(HasSubstr("dweights [3, 1] bfloat16")));
}

}  // namespace
}  // namespace moe::kernels::testing
