#include <gtest/gtest.h>

#include "comm/collectives.h"
#include "common/error.h"
#include "comm/mpi_communicator.h"
#include "testing/mpi_world.h"

namespace moe {
namespace {

TEST(MpiCommunicatorTest, Collectives) {
  ASSERT_GT(testing::mpi_world().size(), 1);
  testing::check_collectives(testing::mpi_world());
}

TEST(MpiCommunicatorTest, AMissingRankIsATimeoutThatNamesTheOperation) {
  Communicator& world = testing::mpi_world();
  // A group of its own, so that the world's messages stay in order.
  const auto hasty = make_mpi_world(std::chrono::milliseconds(300))->split(0, "hasty");
  if (world.rank() == 0) {
    try {
      hasty->barrier("never");
      ADD_FAILURE();
    } catch (const Timeout& error) {
      EXPECT_NE(std::string(error.what()).find("never"), std::string::npos);
    }
  }
  world.barrier("after");
}

}  // namespace
}  // namespace moe
