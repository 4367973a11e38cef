#include "comm/thread_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/collectives.h"
#include "common/error.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(ThreadCommunicatorTest, Collectives) {
  for (const int ranks : {1, 2, 3, 4}) testing::run_ranks(ranks, testing::check_collectives);
  testing::check_collectives(*make_self_communicator());
}

TEST(ThreadCommunicatorTest, AMissingRankIsATimeoutThatNamesTheOperation) {
  try {
    testing::run_ranks(2, [](Communicator& world) {
      if (world.rank() == 0) world.barrier("layer 3 dispatch");
    }, std::chrono::milliseconds(300));
    FAIL();
  } catch (const Timeout& error) {
    EXPECT_THAT(error.what(), HasSubstr("layer 3 dispatch"));
    EXPECT_THAT(error.what(), HasSubstr("operation 1 of rank 0 of 2"));
  }
}

TEST(ThreadCommunicatorTest, DifferentOperationsAreNamed) {
  try {
    testing::run_ranks(2, [](Communicator& world) { world.barrier(world.rank() == 0 ? "combine" : "dispatch"); });
    FAIL();
  } catch (const Internal& error) {
    EXPECT_THAT(error.what(), HasSubstr("combine"));
    EXPECT_THAT(error.what(), HasSubstr("dispatch"));
  }
}

TEST(ThreadCommunicatorTest, AFailedRankEndsTheOthersWithItsReason) {
  std::string other;
  try {
    testing::run_ranks(2, [&](Communicator& world) {
      if (world.rank() == 1) throw InvalidArgument("bad luck");
      try {
        world.barrier("wait");
      } catch (const HardwareError& error) {
        other = error.what();
        throw;
      }
    });
    FAIL();
  } catch (const Error&) {
    EXPECT_THAT(other, HasSubstr("bad luck"));
  }
}

}  // namespace
}  // namespace moe
