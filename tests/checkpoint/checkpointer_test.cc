#include "checkpoint/checkpointer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/checkpoint_fixture.h"
#include "common/error.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::RankState;

/// A tiny model and its moments on one rank.
RankState state_of(uint64_t seed) {
  return RankState(0, {1, 1}, seed);
}

bool are_equal(const RankState& a, const RankState& b) {
  for (size_t i = 0; i < a.first.size(); ++i) {
    if (!a.decoder.parameters()[i].value.equal(b.decoder.parameters()[i].value) || !a.first[i].equal(b.first[i]) ||
        !a.second[i].equal(b.second[i]))
      return false;
  }
  return true;
}

class CheckpointerTest : public ::testing::Test {
 protected:
  void save(int64_t step, uint64_t seed, int keep = 5) {
    RankState state = state_of(seed);
    save_checkpoint(root_.path(), step, 1, state.ranges(), {{"step", step}}, *self_, keep);
  }
  std::optional<nlohmann::json> load(RankState& state) {
    return load_newest_checkpoint(root_.path(), state.ranges(), *self_);
  }
  fs::path shard(int64_t step) {
    return root_ / ("s0000000" + std::to_string(step) + "-t0001") / "shard-00001-of-00001.safetensors";
  }

  testing::TempDir root_;
  std::unique_ptr<Communicator> self_ = make_self_communicator();
};

TEST_F(CheckpointerTest, TheNewestComesBackWhole) {
  RankState state = state_of(99);
  EXPECT_FALSE(load(state)) << "no checkpoint yet";
  save(1, 1);
  save(2, 2);
  EXPECT_EQ((*load(state))["step"], 2);
  EXPECT_TRUE(are_equal(state, state_of(2)));
}

TEST_F(CheckpointerTest, OldOnesAreRemovedButTheNewest) {
  for (int64_t step = 1; step <= 5; ++step) save(step, step, 2);
  EXPECT_FALSE(fs::exists(shard(3)));
  EXPECT_TRUE(fs::exists(shard(4)));
  EXPECT_TRUE(fs::exists(shard(5)));
}

TEST_F(CheckpointerTest, ADamagedOneIsPassedOver) {
  const std::function<void()> damages[] = {
      [&] { fs::resize_file(shard(2), fs::file_size(shard(2)) - 1); },
      [&] { fs::remove(shard(2)); },
      [&] { fs::remove(shard(2).parent_path() / "MANIFEST.json"); },
      [&] { std::ofstream(shard(2).parent_path() / "MANIFEST.json") << "{\"format\""; },
      [&] {
        std::fstream file(shard(2), std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-5, std::ios::end);
        file.put('\x55');
      },
  };
  for (const auto& damage : damages) {
    for (const auto& entry : fs::directory_iterator(root_.path())) fs::remove_all(entry.path());
    save(1, 1);
    save(2, 2);
    damage();
    RankState state = state_of(99);
    EXPECT_EQ((*load(state))["step"], 1);
    EXPECT_TRUE(are_equal(state, state_of(1)));
  }
}

TEST_F(CheckpointerTest, NoneReadableIsItsOwnError) {
  save(1, 1);
  fs::resize_file(shard(1), 100);
  RankState state = state_of(99);
  EXPECT_THROW(load(state), NoReadableCheckpoint);
}

TEST_F(CheckpointerTest, ThoseOfAnotherConfigAreNotTaken) {
  save(1, 1);
  RankState state = state_of(99);
  CheckpointAuthority authority;
  authority.is_ours = [](const nlohmann::json& scalars) { return scalars["step"] == 7; };
  EXPECT_FALSE(load_newest_checkpoint(root_.path(), state.ranges(), *self_, authority));
}

TEST_F(CheckpointerTest, ThoseOfAnotherConfigAreNeverRemoved) {
  for (const int64_t step : {1, 2, 3}) save(step, step);
  fs::resize_file(shard(2), 100);  // nobody can tell any more whose it is
  CheckpointAuthority authority;
  authority.is_ours = [](const nlohmann::json& scalars) { return scalars["step"] > 3; };
  for (const int64_t step : {4, 5, 6}) {
    RankState state = state_of(step);
    save_checkpoint(root_.path(), step, 1, state.ranges(), {{"step", step}}, *self_, /*keep=*/1, authority);
  }
  for (const int64_t step : {1, 2, 3, 6}) EXPECT_TRUE(fs::exists(shard(step))) << step;
  for (const int64_t step : {4, 5}) EXPECT_FALSE(fs::exists(shard(step))) << step;
  const std::vector<StoredCheckpoint> stored = stored_checkpoints(root_.path());
  ASSERT_EQ(stored.size(), 4U);
  EXPECT_EQ(stored[0].name, "s00000006-t0001");
  EXPECT_EQ(stored[0].step, 6);
  EXPECT_EQ(stored[0].attempt, 1);
  EXPECT_EQ(stored[0].scalars["step"], 6);
  EXPECT_TRUE(stored[2].scalars.is_null()) << "a shard of it is cut off";
}

}  // namespace
}  // namespace moe
