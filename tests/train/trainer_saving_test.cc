// When a training saves, what it does where it cannot, and from where it goes on then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "train/held_file.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using testing::TinyTraining;
using Options = TinyTraining::Options;

Options undisturbed_on_two_ranks(const TinyTraining& training) {
  Options options{.job = "undisturbed", .ranks = 2, .expert_parallel = 2};
  EXPECT_TRUE(training.run(options));
  return options;
}

TEST(TrainerTest, StopsForAllWhenOneRankIsAskedAndGoesOnBitForBit) {
  const TinyTraining training;
  const Options undisturbed = undisturbed_on_two_ranks(training);
  std::atomic<int> asked{0};
  Options stopped{.job = "stopped", .ranks = 2, .expert_parallel = 2};
  stopped.should_stop = [&](int rank) { return rank == 1 && ++asked >= 4; };
  EXPECT_FALSE(training.run(stopped)) << "stopped: no outcome";
  EXPECT_EQ(training.lines(stopped).size(), 4U);
  EXPECT_FALSE(training.checkpoint(stopped, 4, 1).empty()) << "saved where it stopped, though none was due";
  EXPECT_FALSE(std::filesystem::exists(training.output(stopped)));
  stopped.should_stop = {};
  stopped.attempt = 2;
  ASSERT_TRUE(training.run(stopped));
  training.expect_same(stopped, undisturbed);
}

/// Puts a file where the folder of checkpoints should be when step 1 is done: nothing can be saved as long as it stands
/// there. `until`: the step at which it goes again.
std::function<void(const StepRecord&)> blocked_checkpoints(const std::filesystem::path& job, int64_t until) {
  return [job, until](const StepRecord& at) {
    std::error_code ignored;
    if (at.step == 1)
      std::filesystem::create_symlink("/dev/null", job / "checkpoints", ignored);  // of both ranks one makes it
    if (at.step == until) std::filesystem::remove(job / "checkpoints", ignored);
  };
}

TEST(TrainerTest, ACheckpointThatCannotBeWrittenIsTriedAgain) {
  const TinyTraining training;
  const Options undisturbed = undisturbed_on_two_ranks(training);
  std::atomic<int> failed{0};
  Options options{.job = "blocked", .ranks = 2, .expert_parallel = 2};
  options.on_failed_save = [&] { ++failed; };
  options.progress = blocked_checkpoints(training.job(options), 4);
  ASSERT_TRUE(training.run(options)) << "due after steps 3, 6 and 9; only the first one failed";
  EXPECT_EQ(failed, 2) << "once, told on both ranks";
  training.expect_same(options, undisturbed);
  EXPECT_FALSE(training.checkpoint(options, 6, 1).empty());
}

TEST(TrainerTest, AfterAFailedCheckpointTheOneBeforeIsResumedFrom) {
  const TinyTraining training;
  const Options undisturbed{.job = "undisturbed"};
  ASSERT_TRUE(training.run(undisturbed));
  Options options;
  // In the way of the second checkpoint alone.
  options.progress = [&](const StepRecord& at) {
    if (at.step == 5) write_file_atomically(training.job(options) / "checkpoints/s00000006-t0001", "in the way");
    if (at.step == 8) throw std::runtime_error("killed by the test");
  };
  EXPECT_THROW(training.run(options), std::runtime_error);
  EXPECT_FALSE(training.checkpoint(options, 3, 1).empty());
  std::vector<int64_t> steps;
  options.attempt = 2;
  options.progress = [&](const StepRecord& at) { steps.push_back(at.step); };
  ASSERT_TRUE(training.run(options));
  EXPECT_EQ(steps.front(), 4);
  training.expect_same(options, undisturbed);
}

TEST(TrainerTest, KilledWhileACheckpointIsWrittenItGoesOnFromTheOneBefore) {
  const TinyTraining training;
  const Options undisturbed{.job = "undisturbed"};
  ASSERT_TRUE(training.run(undisturbed));
  Options options{.awaits_writers = false};
  const std::filesystem::path folder = training.job(options) / "checkpoints/s00000006-t0001",
                              shard = folder / "shard-00001-of-00001.safetensors";
  std::optional<testing::HeldFile> held;
  options.progress = [&](const StepRecord& at) {
    if (at.step == 5) held.emplace(shard);
    if (at.step < 8) return;
    held->let_go();
    throw std::runtime_error("killed by the test");
  };
  EXPECT_THROW(training.run(options), std::runtime_error) << "steps wait for no file";
  EXPECT_FALSE(training.checkpoint(options, 3, 1).empty());
  EXPECT_TRUE(std::filesystem::exists(shard));
  EXPECT_FALSE(std::filesystem::exists(folder / "MANIFEST.json"));
  std::vector<int64_t> steps;
  options.attempt = 2;
  options.progress = [&](const StepRecord& at) { steps.push_back(at.step); };
  ASSERT_TRUE(training.run(options));
  EXPECT_EQ(steps.front(), 4);
  training.expect_same(options, undisturbed);
  EXPECT_FALSE(std::filesystem::exists(folder)) << "what the killed attempt left";
}

TEST(TrainerTest, ACheckpointWhoseWriteFailsBesideTheStepsIsAFailedOne) {
  TinyTraining training;
  training.spec.set_checkpoint_every(1);  // it is found when the next one is due, which is not tried then
  training.spec.set_keep_checkpoints(10);
  const Options undisturbed = undisturbed_on_two_ranks(training);
  std::atomic<int> failed{0};
  Options options{.job = "in-the-way", .ranks = 2, .expert_parallel = 2};
  options.on_failed_save = [&] { ++failed; };
  const std::filesystem::path folder = training.job(options) / "checkpoints/s00000006-t0001";
  options.progress = [&](const StepRecord& at) {
    std::error_code ignored;  // of both ranks one makes it; in the way of rank 1 alone
    if (at.step == 5) std::filesystem::create_directories(folder / "shard-00002-of-00002.safetensors.tmp", ignored);
  };
  ASSERT_TRUE(training.run(options));
  EXPECT_EQ(failed, 2) << "once, told on both ranks";
  EXPECT_FALSE(std::filesystem::exists(folder));
  EXPECT_FALSE(std::filesystem::exists(folder.parent_path() / "s00000007-t0001")) << "one outage, counted once";
  EXPECT_FALSE(training.checkpoint(options, 8, 1).empty());
  training.expect_same(options, undisturbed);
}

TEST(TrainerTest, WhatWasBegunIsCommittedBeforeTheNextAndBeforeTheEnd) {
  TinyTraining training;
  training.spec.set_checkpoint_every(1);  // no step is left to look after which all have written
  const Options undisturbed = undisturbed_on_two_ranks(training);
  std::vector<std::string> committed;
  Options options{.job = "stopped", .ranks = 2, .expert_parallel = 2};
  options.checkpoints.commit = [&](const SavedCheckpoint& saved) {
    EXPECT_TRUE(std::filesystem::exists(training.job(options) / "checkpoints" / saved.name / "MANIFEST.json"));
    committed.push_back(saved.name);
    return true;
  };
  std::atomic<int> asked{0};
  options.should_stop = [&](int rank) { return rank == 1 && ++asked >= 7; };
  EXPECT_FALSE(training.run(options));
  EXPECT_THAT(committed,
              ::testing::ElementsAre("s00000001-t0001", "s00000002-t0001", "s00000003-t0001", "s00000004-t0001",
                                     "s00000005-t0001", "s00000006-t0001", "s00000007-t0001"));
  for (const auto& folder : std::filesystem::directory_iterator(training.job(options) / "checkpoints"))
    EXPECT_TRUE(std::filesystem::exists(folder.path() / "MANIFEST.json")) << folder.path();
  options.should_stop = {};
  options.attempt = 2;
  // Fenced when it would commit the next: then that is none.
  const auto commit = options.checkpoints.commit;
  options.checkpoints.commit = [](const SavedCheckpoint&) -> bool { throw Fenced("another attempt runs"); };
  EXPECT_THROW(training.run(options), Fenced);
  EXPECT_FALSE(std::filesystem::exists(training.job(options) / "checkpoints/s00000008-t0002"));
  EXPECT_FALSE(std::filesystem::exists(training.output(options)));
  options.checkpoints.commit = commit;
  options.attempt = 3;
  committed.clear();
  ASSERT_TRUE(training.run(options));
  EXPECT_THAT(committed, ::testing::ElementsAre("s00000008-t0003", "s00000009-t0003"));
  training.expect_same(options, undisturbed);
}

TEST(TrainerTest, TwoFailedCheckpointsInARowEndTheAttempt) {
  const TinyTraining training;
  Options options{.ranks = 2, .expert_parallel = 2};
  options.progress = blocked_checkpoints(training.job(options), 11);
  try {
    training.run(options);
    FAIL() << "it went on";
  } catch (const StorageError& error) {
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("2 checkpoints in a row could not be written, the last one after step 6"));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << "every rank must know";
  }
  EXPECT_EQ(training.lines(options).size(), 6U);
}

TEST(TrainerTest, WhoIsAskedToLeaveAndCannotSaveTriesAfterTheNextStep) {
  TinyTraining training;
  training.spec.set_checkpoint_every(0);
  Options options;
  options.progress = blocked_checkpoints(training.job(options), 5);
  int asked = 0;
  options.should_stop = [&](int) { return ++asked >= 4; };
  EXPECT_FALSE(training.run(options));
  EXPECT_EQ(training.lines(options).size(), 5U);
  EXPECT_FALSE(training.checkpoint(options, 5, 1).empty());
}

}  // namespace
}  // namespace moe
