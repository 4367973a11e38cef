// The choice of experts and the order of rows by expert, on every device, against sorting.
#include "kernels/routing.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "common/error.h"
#include "kernels/row_cases.h"

namespace moe::kernels::testing {
namespace {

class RoutingTest : public RowCaseTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, RoutingTest, row_cases(DeviceType::kCpu), row_case_name);

TEST_P(RoutingTest, TheLargestAreChosenAndTheLowerIdWinsATie) {
  const auto& [device, dtype, shape] = GetParam();
  const auto [T, E] = shape;
  std::vector<double> logits_TE = random_values(T * E, dtype, 1);
  for (double& logit : logits_TE) logit = std::floor(logit * 4);  // many ties
  TestMatrix logits(device, dtype, T, E, 3, logits_TE);
  for (const int64_t k : {int64_t{1}, std::min<int64_t>(2, E), E}) {
    TestArray<int64_t> ids(device, std::vector<int64_t>(static_cast<size_t>(T * k), -1));
    top_k(logits.view(), k, ids.data(), {device, nullptr});
    std::vector<int64_t> expected;
    for (int64_t t = 0; t < T; ++t) {
      std::vector<int64_t> order(static_cast<size_t>(E));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&, E = E](int64_t a, int64_t b) { return logits_TE[t * E + a] > logits_TE[t * E + b]; });
      expected.insert(expected.end(), order.begin(), order.begin() + k);
    }
    EXPECT_EQ(ids.values(), expected) << "k " << k;
  }
}

TEST_P(RoutingTest, RowsStandByExpertThenToken) {
  const auto& [device, dtype, shape] = GetParam();
  const int64_t T = shape.rows, K = 3, E = 8;
  const std::vector<double> random = random_values(T * K, DType::kFloat64, 7);
  std::vector<int64_t> ids_TK;
  for (const double value : random) ids_TK.push_back(static_cast<int64_t>((value + 1) * E / 2));
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, E}, {2, 3}, {E, 2}}) {
    TestArray<int64_t> ids(device, ids_TK), row_tokens(device, std::vector<int64_t>(ids_TK.size(), -7)),
        slot_rows(device, ids_TK), rows_per_expert(device, std::vector<int64_t>(static_cast<size_t>(count), -7));
    sort_slots({ids.data(), T, K, first, count, row_tokens.data(), slot_rows.data(), rows_per_expert.data()},
               {device, nullptr});
    std::vector<int64_t> here, expected_rows(ids_TK.size(), -1), expected_counts(static_cast<size_t>(count), 0);
    for (int64_t slot = 0; slot < T * K; ++slot) {
      if (ids_TK[slot] >= first && ids_TK[slot] < first + count) here.push_back(slot);
    }
    std::stable_sort(here.begin(), here.end(), [&](int64_t a, int64_t b) { return ids_TK[a] < ids_TK[b]; });
    std::vector<int64_t> expected_tokens(ids_TK.size(), -7);
    for (size_t row = 0; row < here.size(); ++row) {
      expected_rows[here[row]] = static_cast<int64_t>(row);
      expected_tokens[row] = here[row] / K;
      ++expected_counts[ids_TK[here[row]] - first];
    }
    EXPECT_EQ(slot_rows.values(), expected_rows) << first << " + " << count;
    EXPECT_EQ(row_tokens.values(), expected_tokens) << first << " + " << count;
    EXPECT_EQ(rows_per_expert.values(), expected_counts) << first << " + " << count;
  }
}

TEST(RoutingTest, RefusesMoreThanThereAre) {
  TestMatrix logits(DeviceType::kCpu, DType::kFloat32, 2, 3, 0);
  std::vector<int64_t> ids(8);
  EXPECT_THAT(
      [&] { top_k(logits.view(), 4, ids.data()); },
      ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("top_k: 4 of each row of logits [2, 3] float32")));
}

}  // namespace
}  // namespace moe::kernels::testing
