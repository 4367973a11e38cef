// The checks of parallel_checks.h under a real mpirun.

#include <gtest/gtest.h>

#include <string>

#include "parallel/dispatchers.h"
#include "parallel/parallel_checks.h"
#include "testing/mpi_world.h"

namespace moe {
namespace {

TEST(RanksOfMpi, DispatchEqualsALoopOverTokens) {
  ASSERT_GT(testing::mpi_world().size(), 1);
  for (const std::string& name : dispatchers().names()) testing::check_dispatch(testing::mpi_world(), name);
}

TEST(RanksOfMpi, OutputsHaveTheBitsOfOneRank) {
  for (const std::string& name : dispatchers().names()) testing::check_dispatch_bits(testing::mpi_world(), name);
}

TEST(RanksOfMpi, GradientsEqualAPlainSum) {
  testing::check_gradient_sync(testing::mpi_world());
}

}  // namespace
}  // namespace moe
