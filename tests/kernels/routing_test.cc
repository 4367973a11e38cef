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
INSTANTIATE_TEST_SUITE_P(Cuda, RoutingTest, row_cases(DeviceType::kCuda), row_case_name);

TEST_P(RoutingTest, TheLargestAreChosenAndTheLowerIdWinsATie) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, E] = shape;
  std::vector<double> logits_TE = random_values(T * E, dtype, 1);
  for (double& logit : logits_TE) logit = std::floor(logit * 4);  // many ties
  TestMatrix logits(device, dtype, T, E, 3, logits_TE);
  for (const int64_t k : {int64_t{1}, std::min<int64_t>(2, E), E}) {
    TestArray<int64_t> ids(device, std::vector<int64_t>(static_cast<size_t>(T * k), -1));
    top_k(logits.view(), k, ids.data(), queue_on(device));
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
  MOE_SKIP_WITHOUT(device);
  const int64_t T = shape.rows, K = 3, E = 8;
  const std::vector<double> random = random_values(T * K, DType::kFloat64, 7);
  std::vector<int64_t> ids_TK;
  for (const double value : random) ids_TK.push_back(static_cast<int64_t>((value + 1) * E / 2));
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, E}, {2, 3}, {E, 2}}) {
    std::vector<int64_t> here, expected_rows(ids_TK.size(), -1), expected_counts(static_cast<size_t>(count), 0);
    for (int64_t slot = 0; slot < T * K; ++slot) {
      if (ids_TK[slot] >= first && ids_TK[slot] < first + count) here.push_back(slot);
    }
    std::stable_sort(here.begin(), here.end(), [&](int64_t a, int64_t b) { return ids_TK[a] < ids_TK[b]; });
    std::vector<int64_t> expected_tokens(here.size());
    TestArray<int64_t> ids(device, ids_TK), row_tokens(device, std::vector<int64_t>(here.size(), -7)),
        slot_rows(device, ids_TK), rows_per_expert(device, std::vector<int64_t>(static_cast<size_t>(count), -7));
    sort_slots({ids.data(), T, K, first, count, static_cast<int64_t>(here.size()), row_tokens.data(), slot_rows.data(),
                rows_per_expert.data()},
               queue_on(device));
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

TEST_P(RoutingTest, SendsStandByRankThenToken) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const int64_t T = shape.rows, K = 3, E = 8;
  const std::vector<double> random = random_values(T * K, DType::kFloat64, 7);
  std::vector<int64_t> ids_TK;
  for (const double value : random) ids_TK.push_back(static_cast<int64_t>((value + 1) * E / 2));
  for (const int64_t P : {int64_t{1}, int64_t{2}, E}) {
    const int64_t own = E / P;
    std::vector<int64_t> expected_tokens, expected_rows(static_cast<size_t>(T * P), -1), expected_ids,
        expected_counts(static_cast<size_t>(2 * P), 0);
    for (int64_t rank = 0; rank < P; ++rank) {
      for (int64_t t = 0; t < T; ++t) {
        std::vector<int64_t> local;
        for (int64_t k = 0; k < K; ++k) {
          const int64_t id = ids_TK[t * K + k] - rank * own;
          local.push_back(id >= 0 && id < own ? id : -1);
        }
        const auto here = K - std::count(local.begin(), local.end(), -1);
        if (here == 0) continue;
        expected_rows[t * P + rank] = static_cast<int64_t>(expected_tokens.size());
        expected_tokens.push_back(t);
        expected_ids.insert(expected_ids.end(), local.begin(), local.end());
        ++expected_counts[2 * rank];
        expected_counts[2 * rank + 1] += here;
      }
    }
    const auto room = static_cast<size_t>(T * std::min(K, P));
    ASSERT_LE(expected_tokens.size(), room);
    expected_tokens.resize(room, -7);
    expected_ids.resize(room * K, -7);
    TestArray<int64_t> ids(device, ids_TK), row_tokens(device, std::vector<int64_t>(room, -7)),
        slot_rows(device, std::vector<int64_t>(static_cast<size_t>(T * P), -7)),
        local_ids(device, std::vector<int64_t>(room * K, -7)),
        counts(device, std::vector<int64_t>(static_cast<size_t>(2 * P), -7));
    sort_sends({ids.data(), T, K, P, own, row_tokens.data(), slot_rows.data(), local_ids.data(), counts.data()},
               queue_on(device));
    EXPECT_EQ(row_tokens.values(), expected_tokens) << P << " ranks";
    EXPECT_EQ(slot_rows.values(), expected_rows) << P << " ranks";
    EXPECT_EQ(local_ids.values(), expected_ids) << P << " ranks";
    EXPECT_EQ(counts.values(), expected_counts) << P << " ranks";
  }
}

TEST(RoutingTest, RefusesIdsAndCountsThatDisagree) {
  const std::vector<int64_t> ids{0, 3, 2, 1};
  std::vector<int64_t> row_tokens(4), slot_rows(4), counts(4), local_ids(8);
  const auto slots = [&](int64_t experts, int64_t rows) {
    sort_slots({ids.data(), 2, 2, 0, experts, rows, row_tokens.data(), slot_rows.data(), counts.data()});
  };
  EXPECT_THAT([&] { slots(3, 4); },
              ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr(
                  "sort_slots: 3 of 4 slots are of the experts 0 to 2, where 4 were to be there")));
  EXPECT_THAT([&] { slots(3, 2); }, ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("3 of 4 slots")));
  EXPECT_THAT([&] { slots(4, 5); }, ::testing::ThrowsMessage<InvalidArgument>(
                                        ::testing::HasSubstr("5 rows of 2 tokens of 2 slots, 4 experts")));
  const auto sends = [&](int64_t ranks) {
    sort_sends({ids.data(), 2, 2, ranks, 1, row_tokens.data(), slot_rows.data(), local_ids.data(), counts.data()});
  };
  EXPECT_THAT([&] { sends(2); }, ::testing::ThrowsMessage<InvalidArgument>(
                                     ::testing::HasSubstr("sort_sends: expert_ids[1] is 3; expected 0 to 1")));
  const std::vector<int64_t> below{0, -1, 1, 0};  // which a division would send to rank 0
  EXPECT_THAT(
      [&] {
        sort_sends({below.data(), 2, 2, 2, 1, row_tokens.data(), slot_rows.data(), local_ids.data(), counts.data()});
      },
      ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("sort_sends: expert_ids[1] is -1")));
  EXPECT_THAT(
      [&] {
        sort_sends({ids.data(), 2, 2, 4, 1, row_tokens.data(), slot_rows.data(), nullptr, counts.data()});
      },
      ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("local_ids has no data for 8 numbers")));
  EXPECT_THAT(
      [&] {
        sort_slots({nullptr, 2, 2, 0, 4, 4, row_tokens.data(), slot_rows.data(), counts.data()});
      },
      ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("expert_ids has no data for 4 numbers")));
  EXPECT_THAT([&] { sends(0); }, ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("slots to 0 ranks")));
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
