// Checkpoints of which every rank writes ranges of elements: read in any other ranges, and what is missing is found.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <mutex>
#include <tuple>
#include <utility>

#include "checkpoint/checkpoint_fixture.h"
#include "checkpoint/checkpointer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::files_of;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// A weight that all ranks hold, its moments cut into as many runs of elements as there are ranks, a frozen weight that
/// has none, and a tensor of a recipe's own.
struct ShardedState {
  ShardedState(int rank, int ranks, double value) {
    const auto numbers = [&](int64_t count, double from) { return value + from + at::arange(count, at::kDouble); };
    const at::Tensor weight = numbers(35, 0).view({7, 5}), frozen = numbers(6, 100), own = numbers(4, 200).view({2, 2});
    const int64_t first = 35 * rank / ranks, end = 35 * (rank + 1) / ranks;
    ranges.push_back(whole_tensor("weight", weight, rank == 0));
    for (const auto& [suffix, from] : {std::pair{".m", 300}, {".v", 400}}) {
      const at::Tensor part = numbers(end - first, from + static_cast<double>(first));
      ranges.push_back({std::string("weight") + suffix, {7, 5}, first, ranks == 1 ? part.view({7, 5}) : part, true});
    }
    // Of one element: most ranks hold none of it.
    ranges.push_back({"bias.m", {1}, rank == 0 ? 0 : 1, numbers(rank == 0 ? 1 : 0, 500), true});
    ranges.push_back(whole_tensor("frozen", frozen, rank == ranks - 1));
    ranges.push_back(whole_tensor("own state", own, rank == 0));
  }
  std::vector<TensorRange> ranges;
};

TEST(CheckpointRangesTest, AnyShardingLoadsWhatAnyOtherSaved) {
  for (const int writers : {1, 3, 4}) {
    const testing::TempDir root;
    testing::run_ranks(writers, [&](Communicator& world) {
      save_checkpoint(root.path(), 1, 1, ShardedState(world.rank(), writers, 0.5).ranges, {}, world, 5);
    });
    const json manifest = json::parse(read_file(root / "s00000001-t0001/MANIFEST.json"));
    EXPECT_EQ(manifest["format"], writers == 1 ? "moe-checkpoint-1" : "moe-checkpoint-2");
    EXPECT_EQ(manifest["tensors"].size(), 6U) << "no moments of what is frozen";
    for (const int readers : {1, 2, 4, 50}) {
      testing::run_ranks(readers, [&](Communicator& world) {
        ShardedState state(world.rank(), readers, 1000);
        ASSERT_TRUE(load_newest_checkpoint(root.path(), state.ranges, world));
        const ShardedState expected(world.rank(), readers, 0.5);
        for (size_t i = 0; i < state.ranges.size(); ++i) {
          EXPECT_TRUE(state.ranges[i].part.equal(expected.ranges[i].part))
              << state.ranges[i].name << " of rank " << world.rank() << ", " << writers << " -> " << readers;
        }
      });
    }
  }
}

TEST(CheckpointRangesTest, ADamagedPartIsFoundByWhoReadsIt) {
  const testing::TempDir root;
  testing::run_ranks(2, [&](Communicator& world) {
    save_checkpoint(root.path(), 1, 1, ShardedState(world.rank(), 2, 0.5).ranges, {}, world, 5);
  });
  const fs::path shard = root / "s00000001-t0001/shard-00002-of-00002.safetensors";
  std::string bytes = read_file(shard);
  const double damaged = 0.5 + 400 + 30;  // element 30 of weight.v
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&damaged), sizeof damaged));
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  std::ofstream(shard, std::ios::binary) << bytes;
  testing::run_ranks(1, [&](Communicator& world) {
    ShardedState state(0, 1, 1000);
    EXPECT_THAT([&] { load_newest_checkpoint(root.path(), state.ranges, world); },
                ThrowsMessage<NoReadableCheckpoint>(HasSubstr("tensor 'weight.v' does not match its digest")));
  });
}

TEST(CheckpointRangesTest, ElementsThatNobodyOrTwoWroteAreNoCheckpoint) {
  const auto save_parts = [](const fs::path& root, int64_t second_first, int64_t second_count) {
    testing::run_ranks(2, [&](Communicator& world) {
      const int64_t first = world.rank() == 0 ? 0 : second_first, count = world.rank() == 0 ? 4 : second_count;
      const std::vector<TensorRange> ranges{{"w.m", {10}, first, at::ones({count}), true}};
      save_checkpoint(root, 1, 1, ranges, {}, world, 5);
    });
  };
  const std::tuple<int64_t, int64_t, const char*> cases[] = {
      {3, 7, "two ranks wrote 'w.m': elements from 0 to 4, and from 3 to 10"},
      {5, 5, "nobody wrote elements 4 to 5 of 'w.m'"},
      {4, 5, "nobody wrote elements 9 to 10 of 'w.m'"},
      {4, 7, "'w.m': elements from 4 to 11 of 10"}};
  for (const auto& [first, count, message] : cases) {
    const testing::TempDir root;
    EXPECT_THAT([&] { save_parts(root.path(), first, count); }, ThrowsMessage<Internal>(HasSubstr(message)));
    EXPECT_FALSE(fs::exists(root / "s00000001-t0001"));
  }
  const testing::TempDir root;
  save_parts(root.path(), 4, 6);
  EXPECT_TRUE(fs::exists(root / "s00000001-t0001/MANIFEST.json"));
}

/// What saving throws where each rank has the ranges that `ranges_of` gives it; "" if nothing. Then nothing is left.
std::string refusal(int ranks, const std::function<std::vector<TensorRange>(int rank)>& ranges_of) {
  const testing::TempDir root;
  std::string message;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](Communicator& world) {
    try {
      save_checkpoint(root.path(), 1, 1, ranges_of(world.rank()), {}, world, 5);
    } catch (const Internal& error) {
      EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << error.what();
      const std::lock_guard<std::mutex> lock(mutex);
      message = error.what();
    }
  });
  EXPECT_EQ(fs::exists(root / "s00000001-t0001"), message.empty()) << message;
  return message;
}

TEST(CheckpointRangesTest, WhatNoneOfItsHoldersWritesIsMissedWhenItIsSaved) {
  const TensorRange written = whole_tensor("written", at::ones({2}), true);
  EXPECT_THAT(refusal(2,
                      [&](int) {
                        return std::vector{whole_tensor("w", at::ones({2, 3}), false)};
                      }),
              HasSubstr("nobody wrote 'w': none of its elements 0 to 6"));
  // Held by one rank alone, which is not the one that writes the manifest; and by none but as no elements.
  for (const TensorRange& held :
       {whole_tensor("w", at::ones({6}), false), TensorRange{"w", {6}, 2, at::ones({4}), false},
        TensorRange{"w", {6}, 6, at::ones({0}), true}, whole_tensor("w", at::ones({0, 3}), false)}) {
    EXPECT_THAT(refusal(2, [&](int rank) { return std::vector{rank == 0 ? written : held}; }),
                AllOf(HasSubstr("rank 1: "), HasSubstr("nobody wrote 'w': none of its elements 0 to ")));
  }
  for (const at::Tensor& other : {at::ones({3}), at::ones({2}, at::kDouble)}) {
    EXPECT_THAT(
        refusal(2, [&](int rank) { return std::vector{rank == 0 ? written : whole_tensor("written", other, false)}; }),
        AllOf(HasSubstr("rank 1: "), HasSubstr("'written' is written in another type or shape than it is held in")));
  }
}

TEST(CheckpointRangesTest, AnEmptyTensorIsWrittenByOneAndARangeOfNoElementsByNobody) {
  const auto empty = [](bool is_written) { return whole_tensor("empty", at::ones({0, 4}), is_written); };
  EXPECT_THAT(refusal(2, [&](int) { return std::vector{empty(true)}; }), HasSubstr("two ranks wrote 'empty'"));
  EXPECT_EQ(refusal(2, [&](int rank) { return std::vector{empty(rank == 1)}; }), "");
  const testing::TempDir root;
  testing::run_ranks(3, [&](Communicator& world) {
    const bool is_first = world.rank() == 0;
    const at::Tensor part = at::ones({is_first ? 3 : 0}), nothing = at::ones({0, 4});
    const auto ranges = [&] {
      return std::vector{TensorRange{"w", {3}, is_first ? 0 : 3, part, true}, whole_tensor("empty", nothing, is_first)};
    };
    save_checkpoint(root.path(), 1, 1, ranges(), {}, world, 5);
    part.fill_(7);
    ASSERT_TRUE(load_newest_checkpoint(root.path(), ranges(), world));
    EXPECT_TRUE(part.equal(at::ones_like(part)));
  });
  EXPECT_EQ(files_of(root / "s00000001-t0001").size(), 2U)
      << "a manifest, and one file: two ranks have nothing in theirs";
  EXPECT_EQ(json::parse(read_file(root / "s00000001-t0001/MANIFEST.json"))["format"], "moe-checkpoint-1");
}

}  // namespace
}  // namespace moe
