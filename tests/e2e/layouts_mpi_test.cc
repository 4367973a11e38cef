// The same layouts under a real mpirun: every divisor of the world as expert parallelism, against a run of rank 0
// alone.

#include <gtest/gtest.h>

#include "e2e/layout_runs.h"
#include "testing/mpi_world.h"

namespace moe {
namespace {

class LayoutsMpiTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LayoutsMpiTest, AgreeWithOneRank) {
  Communicator& world = testing::mpi_world();
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const int64_t steps = 50;
  const testing::LayoutRun single = testing::run_layout(*self, 1, GetParam(), steps);
  for (int expert_parallel = 1; expert_parallel <= world.size(); expert_parallel *= 2) {
    const testing::LayoutRun run = testing::run_layout(world, expert_parallel, GetParam(), steps);
    testing::expect_equal_runs(
        single, run, GetParam(),
        "mpirun, EP " + std::to_string(expert_parallel) + " x EDP " + std::to_string(world.size() / expert_parallel));
  }
}
INSTANTIATE_TEST_SUITE_P(Types, LayoutsMpiTest, ::testing::Values(at::kDouble, at::kFloat),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

}  // namespace
}  // namespace moe
