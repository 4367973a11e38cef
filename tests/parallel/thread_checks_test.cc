// The checks of parallel_checks.h on ranks that are threads.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>

#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "parallel/parallel_checks.h"
#include "testing/run_ranks.h"
#include "testing/tensor_memory.h"

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

/// An expert a rank: llama-moe-v1 T13's widest layout, and none beside it, which the world sizes above have.
TEST(EightRanksAsThreads, DispatchEqualsALoopOverTokens) {
  testing::run_ranks(8, [](Communicator& world) { testing::check_dispatch(world, "all_to_all", 8); });
}

TEST(EightRanksAsThreads, OutputsHaveTheBitsOfOneRank) {
  testing::run_ranks(8, [](Communicator& world) { testing::check_dispatch_bits(world, "all_to_all"); });
}

TEST(GradientSyncTest, EqualsAPlainSum) {
  for (const int ranks : {1, 2, 4}) testing::run_ranks(ranks, testing::check_gradient_sync);
}

TEST(GradientSyncTest, TheNormHoldsNoCopyOfAnyGradient) {
  const auto self = make_self_communicator();
  Mesh mesh(*self, 1);
  std::vector<Parameter> parameters{
      {.name = "dense", .value = at::zeros({1 << 20}), .id = TensorPart::kHead},
      {.name = "experts", .value = at::zeros({4, 1 << 18}), .is_expert = true, .id = {TensorPart::kDown, 0, kStack}}};
  for (Parameter& parameter : parameters) parameter.value.mutable_grad() = at::ones_like(parameter.value);
  double norm = 0;
  EXPECT_LT(testing::peak_tensor_bytes([&] { norm = global_gradient_norm(parameters, mesh); }), 4096)
      << "of 8 MiB of gradients";
  EXPECT_EQ(norm, std::sqrt(2.0 * (1 << 20)));
  EXPECT_GE(testing::peak_tensor_bytes([&] { at::ones({1000}); }), 4000) << "the measure does not work";
}

}  // namespace
}  // namespace moe
