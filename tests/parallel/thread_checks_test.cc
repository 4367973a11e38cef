// The checks of parallel_checks.h on ranks that are threads.

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "parallel/dispatchers.h"
#include "parallel/parallel_checks.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

class RanksAsThreads : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(RanksAsThreads, DispatchEqualsALoopOverTokens) {
  const auto& [name, ranks] = GetParam();
  testing::run_ranks(ranks, [&](Communicator& world) { testing::check_dispatch(world, name); });
}

TEST_P(RanksAsThreads, OutputsHaveTheBitsOfOneRank) {
  const auto& [name, ranks] = GetParam();
  testing::run_ranks(ranks, [&](Communicator& world) { testing::check_dispatch_bits(world, name); });
}

INSTANTIATE_TEST_SUITE_P(Dispatchers, RanksAsThreads,
                         ::testing::Combine(::testing::ValuesIn(dispatchers().names()), ::testing::Values(1, 2, 4)));

TEST(GradientSyncTest, EqualsAPlainSum) {
  for (const int ranks : {1, 2, 4}) testing::run_ranks(ranks, testing::check_gradient_sync);
}

}  // namespace
}  // namespace moe
