// Products of groups against the products of each group alone, bit for bit, on few groups and on many.
#include "kernels/grouped_matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <functional>
#include <string>
#include <tuple>
#include <utility>

#include "common/error.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"
#include "kernels/test_matrix.h"
#include "testing/message_of.h"

namespace moe::kernels::testing {
namespace {

class GroupedLinearTest : public ::testing::TestWithParam<std::vector<int64_t>> {};
INSTANTIATE_TEST_SUITE_P(Rows, GroupedLinearTest,
                         ::testing::Values(std::vector<int64_t>{5}, std::vector<int64_t>{0, 0},
                                           std::vector<int64_t>{3, 0, 40},
                                           std::vector<int64_t>{17, 0, 1, 64, 33, 2, 129, 8}),
                         [](const auto& test) { return "Groups" + std::to_string(test.param.size()); });

TEST_P(GroupedLinearTest, EqualsTheProductsOfEachGroup) {
  const std::vector<int64_t>& groups = GetParam();
  constexpr int64_t I = 300, O = 43;
  constexpr DeviceType kCpu = DeviceType::kCpu;
  constexpr DType kType = DType::kFloat32;
  const auto G = static_cast<int64_t>(groups.size());
  int64_t R = 0;
  for (const int64_t rows : groups) {
    R += rows;
  }
  TestMatrix x(kCpu, kType, R, I, 3, random_values(R * I, kType, 1)),
      w(kCpu, kType, G * O, I, 1, random_values(G * O * I, kType, 2)),
      dy(kCpu, kType, R, O, 0, random_values(R * O, kType, 3));
  const int threads = omp_get_max_threads();
  for (const int count : {1, 2}) {
    omp_set_num_threads(count);
    TestMatrix y(kCpu, kType, R, O, 2), dx(kCpu, kType, R, I, 0), dw(kCpu, kType, G * O, I, 5);
    TestMatrix y1(kCpu, kType, R, O, 2), dx1(kCpu, kType, R, I, 0), dw1(kCpu, kType, G * O, I, 5);
    TestMatrix biased(kCpu, kType, R, O, 1, dy.values()), biased1(kCpu, kType, R, O, 1, dy.values()),
        bias(kCpu, kType, G, O, 0, random_values(G * O, kType, 4)), sums(kCpu, kType, G, O, 0),
        sums1(kCpu, kType, G, O, 0);
    const RowGroups row_groups{groups.data(), G};
    grouped_linear_forward(x.view(), w.view(), y.view(), row_groups);
    grouped_linear_input_gradient(dy.view(), w.view(), dx.view(), row_groups);
    grouped_linear_weight_gradient(dy.view(), x.view(), dw.view(), row_groups);
    grouped_add_bias(bias.view(), biased.view(), row_groups);
    grouped_sum_rows(dy.view(), sums.view(), row_groups);
    omp_set_num_threads(1);
    for (int64_t g = 0, first = 0; g < G; first += groups[g++]) {
      linear_forward(x.rows(first, groups[g]), w.rows(g * O, O), y1.rows(first, groups[g]));
      linear_input_gradient(dy.rows(first, groups[g]), w.rows(g * O, O), dx1.rows(first, groups[g]));
      linear_weight_gradient(dy.rows(first, groups[g]), x.rows(first, groups[g]), dw1.rows(g * O, O));
      add_bias({bias.rows(g, 1).data, kType, O}, biased1.rows(first, groups[g]));
      sum_rows(dy.rows(first, groups[g]), {sums1.rows(g, 1).data, kType, O});
    }
    EXPECT_EQ(y.bytes(), y1.bytes()) << count << " threads";
    EXPECT_EQ(dx.bytes(), dx1.bytes()) << count << " threads";
    EXPECT_EQ(biased.bytes(), biased1.bytes()) << count << " threads";
    EXPECT_EQ(sums.bytes(), sums1.bytes()) << count << " threads";
    if (count == 1 || G >= 2 * count) {
      EXPECT_EQ(dw.bytes(), dw1.bytes()) << count << " threads";
    }
  }
  omp_set_num_threads(threads);
}

using DeviceCase = std::tuple<DeviceType, DType>;
class GroupedFormulaTest : public ::testing::TestWithParam<DeviceCase> {};
std::string device_case_name(const ::testing::TestParamInfo<DeviceCase>& info) {
  return name_of(std::get<0>(info.param)) + name_of(std::get<1>(info.param));
}
const auto kDtypes = ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64);
INSTANTIATE_TEST_SUITE_P(Cpu, GroupedFormulaTest, ::testing::Combine(::testing::Values(DeviceType::kCpu), kDtypes),
                         device_case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, GroupedFormulaTest, ::testing::Combine(::testing::Values(DeviceType::kCuda), kDtypes),
                         device_case_name);

TEST_P(GroupedFormulaTest, ProductsBiasesAndSumsEqualTheFormula) {
  const auto& [device, dtype] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const std::vector<int64_t> rows_G{17, 0, 1, 40, 3};  // below, at and above a tile, and none
  constexpr int64_t G = 5, R = 61, I = 37, O = 19;
  const std::vector<double> x_RI = random_values(R * I, dtype, 1), w_OI = random_values(G * O * I, dtype, 2),
                            dy_RO = random_values(R * O, dtype, 3), bias_GO = random_values(G * O, dtype, 4);
  std::vector<Expected> y_RO(R * O), dx_RI(R * I), dw_OI(G * O * I), biased_RO(R * O), sums_GO(G * O);
  for (int64_t g = 0, r = 0; g < G; ++g) {
    for (const int64_t end = r + rows_G[g]; r < end; ++r) {
      for (int64_t o = 0; o < O; ++o) {
        for (int64_t i = 0; i < I; ++i) {
          const int64_t weight = (g * O + o) * I + i;
          add(y_RO[r * O + o], x_RI[r * I + i] * w_OI[weight]);
          add(dx_RI[r * I + i], dy_RO[r * O + o] * w_OI[weight]);
          add(dw_OI[weight], dy_RO[r * O + o] * x_RI[r * I + i]);
        }
        add(biased_RO[r * O + o], dy_RO[r * O + o]);
        add(biased_RO[r * O + o], bias_GO[g * O + o]);
        add(sums_GO[g * O + o], dy_RO[r * O + o]);
      }
    }
  }
  TestMatrix x(device, dtype, R, I, 3, x_RI), w(device, dtype, G * O, I, 1, w_OI), dy(device, dtype, R, O, 2, dy_RO),
      bias(device, dtype, G, O, 1, bias_GO);
  TestMatrix y(device, dtype, R, O, 1), dx(device, dtype, R, I, 0), dw(device, dtype, G * O, I, 5),
      biased(device, dtype, R, O, 3, dy_RO), sums(device, dtype, G, O, 2);
  TestArray<int64_t> counts(device, rows_G);
  const RowGroups groups{counts.data(), G};
  const Queue queue = queue_on(device);

  grouped_linear_forward(x.view(), w.view(), y.view(), groups, queue);
  grouped_linear_input_gradient(dy.view(), w.view(), dx.view(), groups, queue);
  grouped_linear_weight_gradient(dy.view(), x.view(), dw.view(), groups, queue);
  grouped_add_bias(bias.view(), biased.view(), groups, queue);
  grouped_sum_rows(dy.view(), sums.view(), groups, queue);

  expect_close("y", y.values(), y_RO, dtype);
  expect_close("dx", dx.values(), dx_RI, dtype);
  expect_close("dw", dw.values(), dw_OI, dtype);
  expect_close("biased", biased.values(), biased_RO, dtype);
  expect_close("sums", sums.values(), sums_GO, dtype);
}

TEST(GroupedLinearTest, RefusesCountsThatDisagree) {
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, 4, 6, 0), w(DeviceType::kCpu, DType::kFloat32, 6, 6, 0),
      y(DeviceType::kCpu, DType::kFloat32, 4, 3, 0);
  const auto refusal_of = [&](const std::vector<int64_t>& groups) {
    return moe::testing::message_of([&] {
      grouped_linear_forward(x.view(), w.view(), y.view(), {groups.data(), static_cast<int64_t>(groups.size())});
    });
  };
  EXPECT_THAT(refusal_of({4, 1}), ::testing::HasSubstr("2 groups of 5 rows in all, with 4 rows"));
  EXPECT_THAT(refusal_of({5, -1}), ::testing::HasSubstr("2 groups of 4 rows in all, some below 0, with 4 rows"));
  EXPECT_THAT(refusal_of({1, 1, 1, 1}),
              ::testing::HasSubstr("weights [6, 6] float32, y [4, 3] float32; expected [T, I], "
                                   "[4 groups * O, I], [T, O] of one dtype"));
  EXPECT_THAT(refusal_of({}), ::testing::HasSubstr("0 groups"));
}

/// In front of every device's version: on one that is not there the shapes are what is wrong.
TEST(GroupedLinearTest, ShapesAreCheckedForEveryDevice) {
  const DType type = DType::kFloat32;
  TestMatrix x(DeviceType::kCpu, type, 4, 6, 0), w(DeviceType::kCpu, type, 6, 6, 0), y(DeviceType::kCpu, type, 4, 3, 0),
      narrow(DeviceType::kCpu, type, 4, 2, 0), wide(DeviceType::kCpu, DType::kBFloat16, 4, 6, 0);
  const std::vector<int64_t> counts{4, 0};
  const RowGroups groups{counts.data(), 2};
  const Queue elsewhere{DeviceType::kCuda, nullptr};
  const std::vector<std::pair<std::string, std::function<void()>>> wrong = {
      {"grouped_linear_forward: shapes disagree: x [4, 6] float32, weights [6, 6] float32, y [4, 2] float32",
       [&] { grouped_linear_forward(x.view(), w.view(), narrow.view(), groups, elsewhere); }},
      {"grouped_linear_forward: shapes disagree: x [4, 6] bfloat16, weights",
       [&] { grouped_linear_forward(wide.view(), w.view(), y.view(), groups, elsewhere); }},
      {"grouped_linear_input_gradient: shapes disagree: dx [4, 2] float32, weights [6, 6] float32, dy [4, 3] float32",
       [&] { grouped_linear_input_gradient(y.view(), w.view(), narrow.view(), groups, elsewhere); }},
      {"grouped_linear_weight_gradient: shapes disagree: x [4, 6] float32, dweights [6, 6] float32, dy [4, 2] float32",
       [&] { grouped_linear_weight_gradient(narrow.view(), x.view(), w.view(), groups, elsewhere); }}};
  for (const auto& [text, op] : wrong) {
    EXPECT_THAT(op, ::testing::ThrowsMessage<InvalidArgument>(::testing::StartsWith(text)));
  }
}

}  // namespace
}  // namespace moe::kernels::testing
