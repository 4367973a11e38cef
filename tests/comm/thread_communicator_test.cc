#include "comm/thread_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>

#include "comm/agreement.h"
#include "comm/collectives.h"
#include "comm/mpi_session.h"
#include "common/error.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// What each of `ranks` ranks threw, as "type: message"; empty where it threw nothing.
std::vector<std::string> failures(int ranks, const std::function<void(Communicator&)>& rank_main,
                                  std::chrono::milliseconds timeout = std::chrono::seconds(30)) {
  std::vector<std::string> thrown(ranks);
  testing::run_ranks(
      ranks,
      [&](Communicator& world) {
        try {
          rank_main(world);
        } catch (const Internal& error) {
          thrown[world.rank()] = concat("Internal: ", error.what());
        } catch (const Timeout& error) {
          thrown[world.rank()] = concat("Timeout: ", error.what());
        } catch (const HardwareError& error) {
          thrown[world.rank()] = concat("HardwareError: ", error.what());
        }
      },
      timeout);
  return thrown;
}

TEST(ThreadCommunicatorTest, Collectives) {
  for (const int ranks : {1, 2, 3, 4, 7}) testing::run_ranks(ranks, testing::check_collectives);
  testing::check_collectives(*make_self_communicator());
}

TEST(ThreadCommunicatorTest, ReductionsGiveTheSameBitsEveryTime) {
  std::set<std::vector<float>> results;
  std::mutex mutex;
  for (int repeat = 0; repeat < 20; ++repeat) {
    testing::run_ranks(4, [&](Communicator& world) {
      at::Tensor sum = (at::arange(5000, at::kFloat) * 0.37f + 0.1f * static_cast<float>(world.rank())).sin();
      world.all_reduce_sum(sum, "sum");
      const float* const values = sum.const_data_ptr<float>();
      const std::lock_guard<std::mutex> lock(mutex);
      results.emplace(values, values + sum.numel());
    });
  }
  EXPECT_EQ(results.size(), 1) << "of 20 runs of 4 ranks";
}

TEST(ThreadCommunicatorTest, AMissingRankIsATimeoutThatNamesTheOperation) {
  try {
    testing::run_ranks(
        2,
        [](Communicator& world) {
          if (world.rank() > 0) return;
          at::Tensor value = at::zeros({1});
          world.all_reduce_sum(value, "layer 2 combine");
        },
        std::chrono::milliseconds(1000));
    FAIL();
  } catch (const Timeout& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("within 1000 ms"), HasSubstr("layer 2 combine"),
                                    HasSubstr("operation 1 of rank 0 of 2")));
  }
}

TEST(ThreadCommunicatorTest, LocalWorkIsNoTimeOfACollective) {
  const std::chrono::milliseconds limit(100);
  const auto thrown = failures(
      2,
      [&](Communicator& world) {
        const auto slow = [&] {
          if (world.rank() == 1) std::this_thread::sleep_for(4 * limit);
        };
        agree(world, "hash a large model", slow);
        EXPECT_EQ(agree_on_result(world, "after it", [] { return std::string("done"); }), "done");
        slow();
        world.barrier("without agreement");
      },
      limit);
  for (const std::string& what : thrown) {
    EXPECT_THAT(what, AllOf(HasSubstr("Timeout: no answer within 100 ms in without agreement")));
  }
}

TEST(ThreadCommunicatorTest, ARankThatComesTooLateSharesTheTimeout) {
  std::atomic<int> gave_up{0};
  const auto thrown = failures(
      3,
      [&](Communicator& world) {
        if (world.rank() == 2) {
          while (gave_up < 2) std::this_thread::yield();
        }
        try {
          world.barrier("early");
        } catch (const Timeout&) {
          ++gave_up;
          throw;
        }
      },
      std::chrono::milliseconds(100));
  for (const std::string& what : thrown)
    EXPECT_THAT(what, AllOf(HasSubstr("Timeout: "), HasSubstr("early (operation 1 of rank")));
}

TEST(ThreadCommunicatorTest, DifferentOperationsAreNamedOnEveryRank) {
  const auto thrown = failures(4, [](Communicator& world) {
    world.barrier("together");
    world.barrier(world.rank() == 2 ? "combine" : "dispatch");
  });
  for (const std::string& what : thrown)
    EXPECT_THAT(what, AllOf(HasSubstr("Internal: "), HasSubstr("'combine'"), HasSubstr("'dispatch'")));
}

TEST(ThreadCommunicatorTest, DifferentShapesAreNamedOnEveryRank) {
  const auto thrown = failures(3, [](Communicator& world) {
    at::Tensor tensor = at::zeros({world.rank() == 1 ? 5 : 4}, at::kDouble);
    world.all_reduce_sum(tensor, "gradients");
  });
  for (const std::string& what : thrown) {
    EXPECT_THAT(what, AllOf(HasSubstr("Internal: "), HasSubstr("40"), HasSubstr("32"), HasSubstr("'gradients'")))
        << what;
  }
}

const std::vector<int64_t> kOneRowEach{1, 1, 1};

TEST(ThreadCommunicatorTest, AWorkThatARankNeverBeginsIsATimeoutOfItsWait) {
  const auto thrown = failures(3, [](Communicator& world) {
    world.barrier("together");
    if (world.rank() == 2) return;
    const auto sums = world.start_reduce_scatter_sum(at::ones({3}), kOneRowEach, "step 7 gradients");
    try {
      sums->wait(std::chrono::milliseconds(100));
    } catch (const Timeout&) {
      // What the gauge and the watchdog show until the rank has ended.
      const OperationState hung = world.operations()->state();
      EXPECT_EQ(hung.name, "step 7 gradients");
      EXPECT_EQ(hung.number, 2);
      EXPECT_GT(hung.seconds_in_flight(), 0);
      EXPECT_THROW(sums->wait(), Internal) << "nothing comes of a second wait";
      EXPECT_GT(world.operations()->state().seconds_in_flight(), 0) << "nor does it hide the first";
      throw;
    }
  });
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_THAT(thrown[rank],
                AllOf(HasSubstr("Timeout: no answer within 100 ms in step 7 gradients (operation 2 of rank")));
  }
}

TEST(ThreadCommunicatorTest, WorksThatDoNotFitAreNamedOnEveryRankAndSpareWhatCameBefore) {
  const auto thrown = failures(3, [](Communicator& world) {
    const auto before = world.start_all_gather(at::ones({1}), kOneRowEach, "before");
    const std::string name = world.rank() == 1 ? "combine" : "dispatch";
    const auto different = world.start_all_to_all(at::ones({3}), kOneRowEach, kOneRowEach, name);
    try {
      different->wait();
    } catch (const Internal&) {
      EXPECT_EQ(before->wait().numel(), 3);
      throw;
    }
  });
  for (const std::string& what : thrown)
    EXPECT_THAT(what, AllOf(HasSubstr("Internal: "), HasSubstr("'combine'"), HasSubstr("'dispatch'")));
  const auto mixed = failures(2, [](Communicator& world) {
    // Sizes that only rank 1 sees to be wrong.
    const std::vector<int64_t> send{1, world.rank() == 0 ? 2 : 1}, receive{1, 1};
    world.start_all_to_all(at::ones({send[0] + send[1]}), send, receive, "rows")->wait();
  });
  for (const std::string& what : mixed) EXPECT_THAT(what, HasSubstr("Internal: rank 0 sends 8 bytes where rank 1"));
}

TEST(ThreadCommunicatorTest, ARankThatFailsIsToldAtTheWait) {
  std::vector<std::string> others(3);
  EXPECT_THROW(testing::run_ranks(3,
                                  [&](Communicator& world) {
                                    if (world.rank() == 1) throw InvalidArgument("bad luck");
                                    try {
                                      world.start_all_gather(at::ones({1}), kOneRowEach, "gather")->wait();
                                    } catch (const HardwareError& error) {
                                      others[world.rank()] = error.what();
                                      throw;
                                    }
                                  }),
               InvalidArgument);
  for (const int rank : {0, 2}) EXPECT_THAT(others[rank], HasSubstr("bad luck"));
}

TEST(ThreadCommunicatorTest, AFailedRankEndsTheOthersWithItsReasonAlsoInSubgroups) {
  std::vector<std::string> others(4);
  try {
    testing::run_ranks(4, [&](Communicator& world) {
      const auto half = world.split(world.rank() / 2, "halves");
      if (world.rank() == 3) throw InvalidArgument("bad luck");
      try {
        half->barrier("in the half");
        world.barrier("in the world");
      } catch (const HardwareError& error) {
        others[world.rank()] = error.what();
        throw;
      }
    });
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "bad luck") << "the first failure is the one reported";
  }
  for (int rank = 0; rank < 3; ++rank) EXPECT_THAT(others[rank], HasSubstr("bad luck"));
}

TEST(MpiSessionTest, AnMpiWithoutThreadsIsRefused) {
  EXPECT_THAT([] { require_thread_support(0); },
              ::testing::ThrowsMessage<HardwareError>(HasSubstr("MPI_THREAD_SINGLE where MPI_THREAD_SERIALIZED")));
  EXPECT_THAT([] { require_thread_support(1); },
              ::testing::ThrowsMessage<HardwareError>(HasSubstr("MPI_THREAD_FUNNELED where MPI_THREAD_SERIALIZED")));
  EXPECT_NO_THROW(require_thread_support(2));  // serialized
  EXPECT_NO_THROW(require_thread_support(3));  // multiple
}

}  // namespace
}  // namespace moe
