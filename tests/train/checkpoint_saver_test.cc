#include "train/checkpoint_saver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "train/held_file.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct FailedSaves final : WorkMonitor {
  void save_failed() override { ++count; }
  int count = 0;
};

class CheckpointSaverTest : public ::testing::Test {
 protected:
  CheckpointSaverTest() { set_log_level(LogLevel::kError); }

  /// One of two ranks; it alone holds and writes the tensor of its number.
  struct Rank {
    Communicator& world;
    CheckpointSaver& saver;
    at::Tensor weights;
    const FailedSaves& failed;
    bool is_storage_full = false;  ///< told by what is written before a checkpoint

    std::vector<TensorRange> tensors() const {
      return {whole_tensor("weights." + std::to_string(world.rank()), weights, /*is_written=*/true)};
    }
    bool begin(int64_t step) const { return saver.begin(step, tensors(), {{"step", step}}); }
    bool save(int64_t step) const { return saver.save(step, tensors(), {{"step", step}}); }
  };

  void run(const std::function<void(Rank& rank)>& rank_main) {
    testing::run_ranks(2, [&](Communicator& world) {
      v1::TrainSpec spec;
      spec.set_keep_checkpoints(2);
      const v1::GangSpec gang;
      FailedSaves failed;
      const TrainRequest request{.spec = spec,
                                 .gang = gang,
                                 .model = {},
                                 .job_path = job_.path(),
                                 .attempt_path = {},
                                 .output = {},
                                 .configuration = {},
                                 .monitor = failed};
      bool* is_full = nullptr;
      CheckpointSaver saver(request, world, [&] {
        if (*is_full) throw StorageError("no space left");
      });
      Rank rank{.world = world, .saver = saver, .weights = at::full({5}, 1.0 + world.rank()), .failed = failed};
      is_full = &rank.is_storage_full;
      rank_main(rank);
    });
  }

  fs::path folder(int64_t step) const { return job_ / ("checkpoints/s0000000" + std::to_string(step) + "-t0001"); }
  /// Newest first.
  std::vector<int64_t> committed() const {
    std::vector<int64_t> steps;
    for (const StoredCheckpoint& stored : stored_checkpoints(job_ / "checkpoints")) steps.push_back(stored.step);
    return steps;
  }

  testing::TempDir job_;
};

TEST_F(CheckpointSaverTest, FinishCommitsWhatStoodThereWhenItWasBegun) {
  run([&](Rank& rank) {
    EXPECT_TRUE(rank.saver.finish()) << "nothing was begun";
    EXPECT_TRUE(rank.begin(1));
    const at::Tensor before = rank.weights.clone();
    rank.weights.fill_(99);
    EXPECT_TRUE(rank.saver.finish());
    EXPECT_TRUE(load_newest_checkpoint(job_ / "checkpoints", rank.tensors(), rank.world));
    EXPECT_TRUE(rank.weights.equal(before));
  });
  EXPECT_THAT(committed(), ElementsAre(1));
}

TEST_F(CheckpointSaverTest, PollCommitsWhenAllHaveWritten) {
  run([&](Rank& rank) {
    rank.begin(1);
    for (bool is_there = false; !is_there;) {
      rank.saver.poll();
      is_there = any_rank(rank.world, "look", fs::exists(folder(1) / kManifestName));
    }
    EXPECT_TRUE(rank.begin(2)) << "nothing is pending";
    rank.saver.finish();
  });
  EXPECT_THAT(committed(), ElementsAre(2, 1));
}

TEST_F(CheckpointSaverTest, NothingIsBegunOrSavedBesideAnother) {
  run([&](Rank& rank) {
    rank.begin(1);
    EXPECT_THROW(rank.begin(2), Internal);
    EXPECT_THROW(rank.save(2), Internal);
    EXPECT_TRUE(rank.saver.finish());
  });
  EXPECT_THAT(committed(), ElementsAre(1));
}

TEST_F(CheckpointSaverTest, WhatOneRankCannotWriteBeforeIsAFailedSaveOnAll) {
  run([&](Rank& rank) {
    rank.is_storage_full = rank.world.rank() == 1;
    EXPECT_FALSE(rank.begin(1));
    EXPECT_EQ(rank.failed.count, 1);
  });
  EXPECT_FALSE(fs::exists(folder(1)));
}

TEST_F(CheckpointSaverTest, OnlyFailuresInARowEndTheAttempt) {
  run([&](Rank& rank) {
    const auto fails = [&](int64_t step) {
      rank.is_storage_full = rank.world.rank() == 1;
      const bool is_saved = rank.save(step);
      rank.is_storage_full = false;
      return !is_saved;
    };
    EXPECT_TRUE(fails(1));
    EXPECT_TRUE(rank.save(2));
    EXPECT_TRUE(fails(3)) << "the first one since a success";
    rank.begin(4);
    EXPECT_TRUE(rank.saver.finish());
    EXPECT_TRUE(fails(5)) << "the first one since a success";
    try {
      fails(6);
      FAIL() << "it goes on";
    } catch (const StorageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("2 checkpoints in a row could not be written, the last one after step 6: "
                                          "rank 1: no space left"));
      EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << "every rank must know";
    }
  });
  EXPECT_THAT(committed(), ElementsAre(4, 2));
}

TEST_F(CheckpointSaverTest, WhatAStopGivesUpLeavesNothing) {
  testing::HeldFile shard(folder(1) / "shard-00002-of-00002.safetensors");  // rank 1 cannot have written it
  run([&](Rank& rank) {
    EXPECT_TRUE(rank.begin(1));
    // Let go when it is given up: then rank 0 waits for rank 1, which waits for its thread.
    std::atomic<bool> is_settled = false;
    const std::future<void> watch = std::async(std::launch::async, [&] {
      if (rank.world.rank() != 0) return;
      while (!is_settled && rank.world.operations()->state().name != "give up checkpoint") std::this_thread::yield();
      shard.let_go();
    });
    EXPECT_TRUE(rank.saver.settle());
    is_settled = true;
    EXPECT_FALSE(fs::exists(folder(1)));
    EXPECT_TRUE(rank.save(2));
    EXPECT_EQ(rank.failed.count, 0) << "given up is not failed";
  });
  EXPECT_THAT(committed(), ElementsAre(2));
}

}  // namespace
}  // namespace moe
