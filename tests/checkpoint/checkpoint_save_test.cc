// Checkpoints that a thread writes while training goes on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <thread>

#include "checkpoint/checkpoint_fixture.h"
#include "checkpoint/checkpoint_shards.h"
#include "checkpoint/checkpointer.h"
#include "common/error.h"
#include "common/file_io.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::files_of;
using ::testing::HasSubstr;
using testing::load;
using testing::RankState;
using testing::save;

std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const fs::path& file : files_of(folder)) contents[file.filename()] = read_file(file);
  return contents;
}

TEST(CheckpointSaveTest, WrittenByAThreadWhileTrainingGoesOnItIsTheSameBytes) {
  const testing::TempDir root, beside, killed;
  save(root.path(), {2, 1}, 3, 1, 7);
  testing::run_ranks(2, [&](Communicator& world) {
    RankState state(world.rank(), {2, 1}, 7);
    CheckpointSave saving(beside.path(), 3, 1, state.ranges(), {{"step", 3}, {"seed", 7}}, world, SnapshotOf::kCopies);
    EXPECT_FALSE(saving.is_written());
    saving.write_beside();
    // The next step: its collectives, and other weights.
    for (const TensorRange& range : state.ranges()) range.part.fill_(99);
    world.barrier("step 4");
    while (!saving.is_written()) std::this_thread::yield();
    world.barrier("written");
    if (world.rank() == 0) fs::copy(beside.path(), killed.path(), fs::copy_options::recursive);
    saving.commit(/*keep=*/5);
  });
  EXPECT_EQ(contents_of(beside / "s00000003-t0001"), contents_of(root / "s00000003-t0001"));
  // What a kill between writing and committing leaves.
  EXPECT_EQ(files_of(killed / "s00000003-t0001").size(), 2U) << "both shards";
  json scalars;
  EXPECT_TRUE(load(killed.path(), {2, 1}, &scalars).empty()) << "half a checkpoint was loaded";
  save(killed.path(), {2, 1}, 2, 2, 5);
  EXPECT_FALSE(fs::exists(killed / "s00000003-t0001")) << "the next attempt removes it";
  load(killed.path(), {2, 1}, &scalars);
  EXPECT_EQ(scalars["step"], 2);
}

TEST(CheckpointSaveTest, AWriteThatFailsInItsThreadFailsAllAtTheCommit) {
  const testing::TempDir root;
  fs::create_directories(root / "s00000002-t0001/shard-00002-of-00002.safetensors.tmp");  // in the way of rank 1
  std::atomic<int> failures{0};
  testing::run_ranks(2, [&](Communicator& world) {
    RankState state(world.rank(), {2, 1}, 2);
    CheckpointSave saving(root.path(), 2, 1, state.ranges(), {{"step", 2}}, world, SnapshotOf::kCopies);
    saving.write_beside();
    try {
      saving.commit(/*keep=*/5);
    } catch (const StorageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 1"));
      ++failures;
    }
  });
  EXPECT_EQ(failures, 2);
  EXPECT_FALSE(fs::exists(root / "s00000002-t0001"));
}

TEST(CheckpointSaveTest, OnlyCopiesAreWrittenBesideTheStepsAndOnce) {
  const testing::TempDir root;
  const std::unique_ptr<Communicator> self = make_self_communicator();
  RankState state(0, {1, 1}, 2);
  CheckpointSave tensors(root.path(), 1, 1, state.ranges(), {{"step", 1}}, *self, SnapshotOf::kTensors);
  EXPECT_THROW(tensors.write_beside(), Internal);
  CheckpointSave copies(root.path(), 2, 1, state.ranges(), {{"step", 2}}, *self, SnapshotOf::kCopies);
  copies.write_beside();
  EXPECT_THROW(copies.write_beside(), Internal);
  copies.commit(/*keep=*/5);
  EXPECT_TRUE(fs::exists(root / "s00000002-t0001/MANIFEST.json"));
}

TEST(CheckpointSaveTest, AShardLetsGoOfWhatIsWrittenAndGivenUpOfItself) {
  const testing::TempDir folder;
  const at::Tensor part = at::ones({3});
  std::vector<TensorRange> ranges{whole_tensor("w", part, /*is_written=*/true)};
  std::atomic<bool> is_given_up = true;
  EXPECT_THROW(write_shard(folder / "shard", std::move(ranges), is_given_up), StorageError);
  EXPECT_TRUE(fs::is_empty(folder.path()));
  is_given_up = false;
  ranges = {whole_tensor("w", part, /*is_written=*/true)};
  EXPECT_EQ(part.use_count(), 2);
  EXPECT_EQ(write_shard(folder / "shard", std::move(ranges), is_given_up).count("w"), 1U);
  EXPECT_EQ(part.use_count(), 1);
  EXPECT_TRUE(fs::exists(folder / "shard"));
}

}  // namespace
}  // namespace moe
