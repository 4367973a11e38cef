#include "comm/mpi_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "comm/collectives.h"
#include "common/error.h"
#include "testing/mpi_world.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::chrono::seconds kPatience{30};

TEST(MpiCommunicatorTest, Collectives) {
  ASSERT_GT(testing::mpi_world().size(), 1);
  testing::check_collectives(testing::mpi_world());
}

TEST(MpiCommunicatorTest, LargeBuffersTravelAsSeveralMessages) {
  // As above with messages of 100 bytes: the 10001 doubles of a reduction are hundreds of them.
  testing::check_collectives(*make_mpi_world(kPatience, 100)->split(0, "small messages"));
}

TEST(MpiCommunicatorTest, AMissingRankIsATimeoutThatNamesTheOperation) {
  Communicator& world = testing::mpi_world();
  // A group of its own, so that the world's messages stay in order.
  const auto hasty = make_mpi_world(std::chrono::milliseconds(1000))->split(0, "hasty");
  if (world.rank() == 0) {
    const auto started = std::chrono::steady_clock::now();
    EXPECT_THAT([&] { hasty->barrier("layer 3 dispatch"); },
                ThrowsMessage<Timeout>(AllOf(HasSubstr("within 1000 ms"), HasSubstr("layer 3 dispatch"),
                                             HasSubstr(concat("operation 2 of rank 0 of ", world.size())))));
    EXPECT_LT(std::chrono::steady_clock::now() - started, kPatience);
  }
  world.barrier("after the timeout");
}

TEST(MpiCommunicatorTest, RanksInDifferentOperationsTimeOutAndNeverTakeEachOthersBytes) {
  Communicator& world = testing::mpi_world();
  const auto hasty = make_mpi_world(std::chrono::milliseconds(300))->split(0, "hasty");
  at::Tensor value = at::full({1}, world.rank(), at::kDouble);
  EXPECT_THROW(hasty->all_reduce_sum(value, world.rank() == 0 ? "loss" : "norm"), Timeout);
  world.barrier("after the timeout");
}

TEST(MpiCommunicatorTest, WhoIsWaitedForBeyondTheLimitIsNamed) {
  Communicator& world = testing::mpi_world();
  const auto hasty = make_mpi_world(std::chrono::milliseconds(1000))->split(0, "hasty");
  world.barrier("before the work");
  if (world.rank() == 1)
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));  // stopped, or at work: who knows
  if (world.rank() == 0) ::testing::internal::CaptureStderr();
  const std::vector<std::string> all = hasty->all_gather_bytes_after_work(concat(world.rank()), "hash weights");
  EXPECT_EQ(all.back(), concat(world.size() - 1)) << "it is waited for all the same";
  if (world.rank() != 0) return;
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(told,
              AllOf(HasSubstr("event=waiting_for_ranks ranks=1 "), HasSubstr("hash weights"), HasSubstr("up to 24 h")));
}

TEST(MpiCommunicatorTest, AWorkThatNobodyElseBeginsTimesOutAtItsWaitAndMayBeForgotten) {
  Communicator& world = testing::mpi_world();
  const auto hasty = make_mpi_world(kPatience)->split(0, "hasty");
  if (world.rank() == 0) {
    const std::vector<int64_t> rows(world.size(), 1);
    std::unique_ptr<Work> sums = hasty->start_reduce_scatter_sum(at::ones({world.size()}), rows, "step 7 gradients");
    const std::unique_ptr<Work> other = hasty->start_all_gather(at::ones({1}), rows, "parameters");
    EXPECT_THAT(
        [&] { sums->wait(std::chrono::milliseconds(200)); },
        ThrowsMessage<Timeout>(AllOf(HasSubstr("within 200 ms"), HasSubstr("step 7 gradients (operation 2 of rank 0"),
                                     HasSubstr("parameters"))));
    sums.reset();
  }
  world.barrier("after the timeout");
}

TEST(MpiCommunicatorTest, AWorkOfAnotherSizeIsInternalAtItsWait) {
  Communicator& world = testing::mpi_world();
  const auto group = make_mpi_world(kPatience)->split(0, "sizes");
  const int n = world.size();
  // Rank 0 sends two rows to each where one is expected.
  const std::vector<int64_t> send(n, world.rank() == 0 ? 2 : 1), receive(n, 1);
  std::vector<int64_t> from(receive);
  if (world.rank() == 0) from[0] = 2;
  const std::unique_ptr<Work> rows =
      group->start_all_to_all(at::ones({n * send[0], 1}, at::kDouble), send, from, "rows");
  if (world.rank() == 0) {
    EXPECT_EQ(rows->wait().size(0), n + 1);
  } else {
    EXPECT_THAT([&] { rows->wait(); },
                ThrowsMessage<Internal>(HasSubstr("rank 0 sent more bytes than were expected in rows")));
  }
  world.barrier("after the error");
}

TEST(MpiCommunicatorTest, DifferentShapesAreInternal) {
  Communicator& world = testing::mpi_world();
  const auto group = make_mpi_world(kPatience)->split(0, "shapes");
  // Rank 0 expects 5 where it gets 4, the others the other way round.
  at::Tensor value = at::zeros({world.rank() == 0 ? 5 : 4}, at::kDouble);
  try {
    group->all_reduce_sum(value, "gradients");
    ADD_FAILURE();
  } catch (const Internal& error) {
    const std::string expected =
        world.rank() == 0 ? "sent 32 bytes where 40 were expected" : "rank 0 sent more bytes than were expected";
    EXPECT_THAT(error.what(), AllOf(HasSubstr(expected), HasSubstr("in gradients")));
  }
  world.barrier("after the error");
}

}  // namespace
}  // namespace moe
