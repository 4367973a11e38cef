// Checkpoints across layouts of ranks, and what goes wrong while they are written or kept.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>

#include "checkpoint/checkpoint_shards.h"
#include "checkpoint/checkpointer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kExperts = 8;

struct Layout {
  int expert_parallel;
  int replicas;
  int ranks() const { return expert_parallel * replicas; }
};

/// What rank `rank` of a layout holds: experts by rank modulo ep, moments of its parameters.
struct RankState {
  RankState(int rank, const Layout& layout, uint64_t seed, at::ScalarType dtype = at::kFloat)
      : writes_dense(rank == 0),
        writes_experts(rank < layout.expert_parallel),
        decoder(
            testing::tiny_moe_config(kExperts, 2, 11), dtype,
            {kExperts / layout.expert_parallel * (rank % layout.expert_parallel), kExperts / layout.expert_parallel}) {
    const at::NoGradGuard no_grad;
    testing::fill_random(decoder, seed);
    for (const Parameter& parameter : decoder.parameters()) {
      first.push_back(parameter.value * 0.5);
      second.push_back(parameter.value.square());
    }
  }
  std::vector<TensorRange> ranges() {
    std::vector<TensorRange> all;
    for (size_t i = 0; i < first.size(); ++i) {
      const Parameter& parameter = decoder.parameters()[i];
      const bool is_written = parameter.is_expert ? writes_experts : writes_dense;
      append_logical(all, parameter, parameter.value.detach(), "", is_written);
      append_logical(all, parameter, first[i], ".m", is_written);
      append_logical(all, parameter, second[i], ".v", is_written);
    }
    return all;
  }

  bool writes_dense, writes_experts;
  Decoder decoder;
  std::vector<at::Tensor> first, second;
};

void save(const fs::path& root, const Layout& layout, int64_t step, int attempt, uint64_t seed, int keep = 5) {
  testing::run_ranks(layout.ranks(), [&](Communicator& world) {
    RankState state(world.rank(), layout, seed);
    save_checkpoint(root, step, attempt, state.ranges(), {{"step", step}, {"seed", seed}}, world, keep);
  });
}

/// Digest of every logical tensor that any rank of the layout holds after loading; replicas must agree.
std::map<std::string, std::string> load(const fs::path& root, const Layout& layout, json* scalars = nullptr) {
  std::map<std::string, std::string> digests;
  std::mutex mutex;
  testing::run_ranks(layout.ranks(), [&](Communicator& world) {
    RankState state(world.rank(), layout, /*seed=*/999);
    const auto loaded = load_newest_checkpoint(root, state.ranges(), world);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!loaded) return;
    if (scalars != nullptr) *scalars = *loaded;
    for (size_t i = 0; i < state.first.size(); ++i) {
      const Parameter& parameter = state.decoder.parameters()[i];
      const std::pair<const char*, at::Tensor> parts[] = {
          {"", parameter.value}, {".m", state.first[i]}, {".v", state.second[i]}};
      for (const auto& [suffix, storage] : parts) {
        for (const LogicalView& logical : logical_views(parameter, storage)) {
          const at::Tensor data = logical.view.contiguous();
          const std::string digest =
              xxh3_hex(std::span(static_cast<const std::byte*>(data.const_data_ptr()), data.nbytes()));
          const auto [known, is_new] = digests.emplace(logical.name + suffix, digest);
          EXPECT_EQ(known->second, digest) << logical.name << suffix << " differs between ranks";
        }
      }
    }
  });
  return digests;
}

/// All files of a checkpoint.
std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

TEST(CheckpointLayoutsTest, AnyLayoutLoadsWhatAnyOtherSaved) {
  const Layout layouts[] = {{2, 2}, {4, 1}, {1, 1}, {1, 4}, {8, 1}};
  std::map<std::string, std::string> expected;
  int pairs = 0;
  for (const Layout& writer : layouts) {
    const testing::TempDir root;
    save(root.path(), writer, 7, 1, 5);
    for (const Layout& reader : layouts) {
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
