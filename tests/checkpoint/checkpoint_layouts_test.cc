// Checkpoints across layouts of ranks, and what goes wrong while they are written or kept.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>

#include "checkpoint/checkpoint_fixture.h"
#include "checkpoint/checkpointer.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::CheckpointLayout;
using testing::files_of;
using ::testing::HasSubstr;
using testing::load;
using testing::RankState;
using testing::save;
using ::testing::ThrowsMessage;

TEST(CheckpointLayoutsTest, AnyLayoutLoadsWhatAnyOtherSaved) {
  const CheckpointLayout layouts[] = {{2, 2}, {4, 1}, {1, 1}, {1, 4}, {8, 1}};
  std::map<std::string, std::string> expected;
  int pairs = 0;
  for (const CheckpointLayout& writer : layouts) {
    const testing::TempDir root;
    save(root.path(), writer, 7, 1, 5);
    for (const CheckpointLayout& reader : layouts) {
      const auto digests = load(root.path(), reader);
      if (expected.empty()) expected = digests;
      EXPECT_EQ(digests, expected) << "written at EP " << writer.expert_parallel << ", read at EP "
                                   << reader.expert_parallel;
      ++pairs;
    }
  }
  std::cout << pairs << " pairs of layouts, " << expected.size() << " logical tensors each\n";
  // 2 layers x (8 experts x 3 + router + 6) + 3, each with two moments.
  EXPECT_EQ(expected.size(), 3U * (2 * (8 * 3 + 1 + 6) + 3));
}

TEST(CheckpointLayoutsTest, ACheckpointOfWhichAnyFileIsMissingOrShortIsNotTaken) {
  int cases = 0;
  for (const bool truncate : {false, true}) {
    for (size_t victim = 0; victim < 3; ++victim) {
      const testing::TempDir root;
      save(root.path(), {2, 1}, 1, 1, 1);
      save(root.path(), {2, 1}, 2, 1, 2);
      const std::vector<fs::path> files = files_of(root / "s00000002-t0001");
      ASSERT_EQ(files.size(), 3U);
      if (truncate) {
        fs::resize_file(files[victim], fs::file_size(files[victim]) / 2);
      } else {
        fs::remove(files[victim]);
      }
      json scalars;
      load(root.path(), {1, 1}, &scalars);
      EXPECT_EQ(scalars["step"], 1) << files[victim];
      ++cases;
    }
  }
  std::cout << cases << " half-written checkpoints, none taken\n";
}

TEST(CheckpointLayoutsTest, AFlippedBitAnywhereIsFoundOrHarmless) {
  const testing::TempDir root;
  save(root.path(), {1, 1}, 1, 1, 1);
  save(root.path(), {1, 1}, 2, 1, 2);
  json scalars;
  const auto good = load(root.path(), {1, 1}, &scalars);
  ASSERT_EQ(scalars["step"], 2);
  CounterRng rng(20261124, kStreamTest, 9);
  int found = 0, trials = 0;
  for (const fs::path& file : files_of(root / "s00000002-t0001")) {
    const std::string bytes = read_file(file);
    for (int trial = 0; trial < 60; ++trial, ++trials) {
      std::string damaged = bytes;
      damaged[rng.below(bytes.size())] ^= static_cast<char>(1 << rng.below(8));
      std::ofstream(file, std::ios::binary) << damaged;
      const auto digests = load(root.path(), {1, 1}, &scalars);
      found += scalars["step"] == 1 ? 1 : 0;
      if (scalars["step"] != 1) {
        EXPECT_EQ(digests, good) << "a damaged tensor was loaded from " << file;
        EXPECT_EQ(scalars, json({{"step", 2}, {"seed", 2}})) << "damaged scalars were loaded from " << file;
      }
    }
    std::ofstream(file, std::ios::binary) << bytes;
  }
  std::cout << found << " of " << trials
            << " flipped bits found, the others changed nothing that is read (seed 20261124)\n";
  EXPECT_GE(found, trials * 9 / 10);
}

TEST(CheckpointLayoutsTest, AShardOfAnotherCheckpointIsFound) {
  const testing::TempDir root;
  save(root.path(), {2, 1}, 1, 1, 1);
  save(root.path(), {2, 1}, 2, 1, 2);
  fs::copy_file(root / "s00000001-t0001/shard-00002-of-00002.safetensors",
                root / "s00000002-t0001/shard-00002-of-00002.safetensors", fs::copy_options::overwrite_existing);
  json scalars;
  load(root.path(), {2, 1}, &scalars);
  EXPECT_EQ(scalars["step"], 1);
}

TEST(CheckpointLayoutsTest, TheReasonNamesFileAndTensorWhenNoneIsLeft) {
  const testing::TempDir root;
  save(root.path(), {2, 1}, 1, 1, 1);
  const fs::path shard = root / "s00000001-t0001/shard-00002-of-00002.safetensors";
  {
    std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-3, std::ios::end);
    file.put('\x77');
  }
  EXPECT_THAT(
      [&] {
        load(root.path(), {4, 1});
      },
      ThrowsMessage<NoReadableCheckpoint>(
          AllOf(HasSubstr(shard.string()), HasSubstr("mlp.experts."), HasSubstr("does not match its digest"))));
}

TEST(CheckpointLayoutsTest, OneRankThatCannotWriteFailsAllAndLeavesTheOldOnes) {
  const testing::TempDir root;
  save(root.path(), {2, 1}, 1, 1, 1);
  // In the way of rank 1's shard alone.
  fs::create_directories(root / "s00000002-t0001/shard-00002-of-00002.safetensors.tmp");
  std::atomic<int> failures{0};
  testing::run_ranks(2, [&](Communicator& world) {
    RankState state(world.rank(), {2, 1}, 2);
    try {
      save_checkpoint(root.path(), 2, 1, state.ranges(), {{"step", 2}}, world, 5);
    } catch (const StorageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 1"));
      ++failures;
    }
  });
  EXPECT_EQ(failures, 2) << "every rank must learn of it";
  EXPECT_FALSE(fs::exists(root / "s00000002-t0001"));
  json scalars;
  load(root.path(), {1, 1}, &scalars);
  EXPECT_EQ(scalars["step"], 1);
}

TEST(CheckpointLayoutsTest, NoCheckpointOfNumbersThatAreNotFinite) {
  const testing::TempDir root;
  testing::run_ranks(1, [&](Communicator& world) {
    RankState state(0, {1, 1}, 2);
    state.second[3].view({-1})[0] = std::nanf("");
    EXPECT_THAT([&] { save_checkpoint(root.path(), 2, 1, state.ranges(), {}, world, 5); },
                ThrowsMessage<Diverged>(AllOf(HasSubstr(state.decoder.parameters()[3].name + ".v' holds 1 values of "),
                                              HasSubstr("no checkpoint is written of it"))));
  });
  EXPECT_TRUE(fs::is_empty(root.path()));
}

TEST(CheckpointLayoutsTest, AFreshStartAtALowerStepIsNotTheOldestOne) {
  const testing::TempDir root;
  save(root.path(), {1, 1}, 100, 1, 1, 2);
  save(root.path(), {1, 1}, 200, 1, 2, 2);
  save(root.path(), {1, 1}, 10, 2, 3, 2);  // the config changed: attempt 2 began anew
  EXPECT_FALSE(fs::exists(root / "s00000100-t0001"));
  EXPECT_TRUE(fs::exists(root / "s00000200-t0001"));
  json scalars;
  load(root.path(), {1, 1}, &scalars);
  EXPECT_EQ(scalars["step"], 10);
}

TEST(CheckpointLayoutsTest, BrokenOnesDoNotCountAsKeptAndLeftoversGo) {
  const testing::TempDir root;
  save(root.path(), {1, 1}, 1, 1, 1);
  save(root.path(), {1, 1}, 2, 1, 2);
  fs::resize_file(root / "s00000002-t0001/shard-00001-of-00001.safetensors", 50);
  fs::create_directories(root / "s00000003-t0001");  // of a writer that was killed
  fs::create_directories(root / "something-else");
  save(root.path(), {1, 1}, 4, 2, 4, 2);
  EXPECT_TRUE(fs::exists(root / "s00000001-t0001")) << "the second newest that verifies";
  EXPECT_FALSE(fs::exists(root / "s00000003-t0001"));
  EXPECT_TRUE(fs::exists(root / "something-else"));
}

TEST(CheckpointLayoutsTest, ACheckpointIsNeverWrittenTwice) {
  const testing::TempDir root;
  save(root.path(), {1, 1}, 1, 1, 1);
  EXPECT_THROW(save(root.path(), {1, 1}, 1, 1, 2), Internal);
  json scalars;
  load(root.path(), {1, 1}, &scalars);
  EXPECT_EQ(scalars["seed"], 1);
}

TEST(CheckpointLayoutsTest, AnotherTypeIsRefusedNotCast) {
  const testing::TempDir root;
  save(root.path(), {1, 1}, 1, 1, 1);
  testing::run_ranks(1, [&](Communicator& world) {
    RankState state(0, {1, 1}, 2, at::kDouble);
    EXPECT_THROW(load_newest_checkpoint(root.path(), state.ranges(), world), NoReadableCheckpoint);
  });
}

}  // namespace
}  // namespace moe
