#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cfenv>
#include <cmath>
#include <set>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/measures.h"
#include "eval/evaluator.h"
#include "train/held_file.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

double squares(const std::map<std::string, at::Tensor>& tensors, const std::string& suffix) {
  double sum = 0;
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with(suffix)) sum += tensor.to(at::kDouble).square().sum().item<double>();
  }
  return sum;
}

TEST(TrainerTest, LearnsAndTellsWhatItDid) {
  TinyTraining training;
  training.validate(4);
  std::vector<int64_t> steps_reported;
  std::set<std::string> measured;
  const Options options{.progress = [&](const StepRecord& at) {
    steps_reported.push_back(at.step);
    for (const auto& [name, value] : values_of(at)) measured.insert(name.substr(0, name.find('.')));
    EXPECT_EQ(at.steps, 10);
    EXPECT_GT(at.tokens_per_second(), 0);
  }};
  const std::optional<TrainOutcome> outcome = training.run(options);
  ASSERT_TRUE(outcome);
  const std::vector<json> lines = training.lines(options);
  ASSERT_EQ(lines.size(), 10U);
  EXPECT_EQ(steps_reported, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  std::set<std::string> listed;
  for (const Measure& measure : measures()) {
    if (measure.of_steps && !measure.is_optional) listed.insert(measure.name);
  }
  EXPECT_EQ(measured, listed) << "common/measures.cc lists what steps record";
  int64_t tokens = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    const json& line = lines[i];
    EXPECT_EQ(line["step"], i + 1);
    EXPECT_EQ(line.contains("validation"), i + 1 == 4 || i + 1 == 8 || i + 1 == 10);
    EXPECT_GE(line["balance_loss"].get<double>(), 0.99);
    int64_t routed = 0;
    for (const auto& layer : line["expert_load"]) {
      for (const auto& count : layer) routed += count.get<int64_t>();
    }
    EXPECT_EQ(routed, 2 * 2 * (line["tokens"].get<int64_t>() - tokens)) << "top-2 in 2 layers, step " << i + 1;
    tokens = line["tokens"];
  }
  EXPECT_DOUBLE_EQ(lines[0]["learning_rate"], 0.5e-2);
  EXPECT_DOUBLE_EQ(lines[1]["learning_rate"], 1e-2);
  EXPECT_DOUBLE_EQ(lines[9]["learning_rate"], 1e-3);
  EXPECT_LT(lines[9]["loss"].get<double>(), lines[0]["loss"].get<double>());

  const std::map<std::string, double>& metrics = outcome->metrics;
  EXPECT_EQ(metrics.at("steps"), 10);
  EXPECT_EQ(metrics.at("tokens"), static_cast<double>(tokens));
  EXPECT_EQ(metrics.at("loss"), lines[9]["loss"].get<double>());
  EXPECT_EQ(metrics.at("loss_first"), lines[0]["loss"].get<double>());
  EXPECT_EQ(metrics.at("validation_loss"), lines[9]["validation_loss"].get<double>());
  EXPECT_EQ(metrics.at("validation_loss.held"), metrics.at("validation_loss"));
  EXPECT_GT(metrics.at("tokens_per_second"), 0);
  EXPECT_GE(metrics.at("load_max_over_mean"), 1);
  EXPECT_EQ(metrics.at("dead_expert_fraction"), 0);
  EXPECT_EQ(outcome->details["curve"].size(), 10U);
  EXPECT_EQ(outcome->details["validation"].size(), 3U);
  EXPECT_EQ(outcome->details["expert_load"].size(), 2U);
}

TEST(TrainerTest, TheWrittenModelIsTheTrainedOne) {
  TinyTraining training;
  training.validate(0);
  const Options options;
  const std::optional<TrainOutcome> outcome = training.run(options);
  ASSERT_TRUE(outcome);
  v1::EvaluateSpec spec;
  *spec.mutable_data() = training.spec.validation();
  spec.add_tasks("perplexity");
  spec.set_sequence_length(24);
  spec.set_max_tokens(200);
  spec.set_append_eos(true);
  v1::GangSpec gang;
  gang.set_expert_parallel(1);
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const json evaluated = evaluate(
      {.spec = spec, .gang = gang, .model = training.output(options), .baseline = {}, .monitor = unwatched()}, *self);
  EXPECT_EQ(evaluated["tasks"]["perplexity"]["loss"].get<double>(), outcome->metrics.at("validation_loss"))
      << "same rows, same weights, same bits";
}

TEST(TrainerTest, KilledAtAnyStepItResumesBitForBit) {
  TinyTraining training;
  training.validate(4);
  const Options undisturbed{.job = "undisturbed"};
  ASSERT_TRUE(training.run(undisturbed));
  // Before the first checkpoint, at one, between two, after the last; then the same job killed four times.
  for (const int64_t step : {1, 3, 5, 10}) {
    SCOPED_TRACE(step);
    training.expect_same(training.kill_and_resume({.job = concat("killed-", step)}, step), undisturbed);
  }
  Options often{.job = "often"};
  for (const int64_t step : {2, 4, 7, 8}) {
    training.run_and_kill(often, step);
    ++often.attempt;
  }
  ASSERT_TRUE(training.run(often));
  training.expect_same(often, undisturbed);
}

Options undisturbed_on_two_ranks(const TinyTraining& training) {
  Options options{.job = "undisturbed", .ranks = 2, .expert_parallel = 2};
  EXPECT_TRUE(training.run(options));
  return options;
}

TEST(TrainerTest, KilledOnTwoRanksItResumesBitForBit) {
  const TinyTraining training;
  training.expect_resumes_bit_for_bit();
}

TEST(TrainerTest, ResumesAtAnotherLayout) {
  const TinyTraining training("float64");
  const Options undisturbed{.job = "undisturbed"};
  ASSERT_TRUE(training.run(undisturbed));
  Options moved{.job = "moved"};
  training.run_and_kill(moved, 4);
  for (const auto& [ranks, expert_parallel, step] : {std::tuple{2, 2, 7}, {4, 2, 9}}) {
    moved.attempt += 1;
    moved.ranks = ranks;
    moved.expert_parallel = expert_parallel;
    training.run_and_kill(moved, step);
  }
  moved.attempt = 4;
  moved.ranks = 2;
  moved.expert_parallel = 1;
  ASSERT_TRUE(training.run(moved));
  training.expect_alike_steps(moved, undisturbed);
}

TEST(TrainerTest, ACheckpointOfAnotherConfigIsNotResumedFrom) {
  const TinyTraining training;
  Options options;
  training.run_and_kill(options, 5);
  options.attempt = 2;
  options.digest = "another config";
  std::vector<int64_t> steps;
  options.progress = [&](const StepRecord& at) { steps.push_back(at.step); };
  ASSERT_TRUE(training.run(options));
  EXPECT_EQ(steps.front(), 1);
  EXPECT_EQ(training.lines(options).size(), 10U);
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

TEST(TrainerTest, ValidationAndCheckpointsDoNotTouchTraining) {
  TinyTraining training;
  const Options plain{.job = "plain"}, watched{.job = "watched"};
  training.spec.set_checkpoint_every(0);
  ASSERT_TRUE(training.run(plain));
  EXPECT_FALSE(std::filesystem::exists(training.job(plain) / "checkpoints"));
  training.spec.set_checkpoint_every(1);
  training.validate(1);
  ASSERT_TRUE(training.run(watched));
  std::vector<json> lines = training.lines(watched);
  for (json& line : lines) {
    EXPECT_EQ(line.erase("validation_loss") + line.erase("validation"), 2U);
  }
  EXPECT_EQ(lines, training.lines(plain));
  EXPECT_EQ(training.weights(watched), training.weights(plain));
  const auto begin = std::filesystem::directory_iterator(training.job(watched) / "checkpoints");
  EXPECT_EQ(std::distance(begin, std::filesystem::directory_iterator()), 2) << "keep_checkpoints";
}

/// After one step from zero moments, |m| = (1 - beta1) |clipped gradient|.
TEST(TrainerTest, ClipsTheGlobalNorm) {
  for (const double clip : {0.01, 0.0, 1e6}) {
    SCOPED_TRACE(clip);
    TinyTraining training("float64");
    training.spec.set_steps(2);
    training.spec.set_checkpoint_every(1);
    training.spec.set_clip_norm(clip);
    const Options options{.ranks = 2, .expert_parallel = 2};
    ASSERT_TRUE(training.run(options));
    const double norm = training.lines(options)[0]["gradient_norm"];
    ASSERT_GT(norm, 0.1);
    const double expected = clip == 0.01 ? clip : norm;
    EXPECT_NEAR(std::sqrt(squares(training.checkpoint(options, 1, 1), ".m")) / (0.1 * expected), 1, 1e-5);
  }
}

TEST(TrainerTest, SkipsStepsThatAreNotFiniteAndGivesUpAfterThree) {
  TinyTraining training;
  training.spec.set_learning_rate(1e15);
  training.spec.set_warmup_steps(0);
  training.spec.set_checkpoint_every(1);
  training.spec.set_keep_checkpoints(10);
  Options options{.ranks = 2, .expert_parallel = 2};
  // Step 1 is fine and ruins the weights. Stopped after it and after the first bad step, it counts on.
  options.should_stop = [](int) { return true; };
  for (; options.attempt <= 2; ++options.attempt) EXPECT_FALSE(training.run(options));
  const auto before = training.checkpoint(options, 1, 1), after = training.checkpoint(options, 2, 2);
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before) {
    // Bits, since NaN is not equal to itself.
    EXPECT_TRUE(at::equal(tensor.contiguous().view(at::kInt), after.at(name).contiguous().view(at::kInt)))
        << name << " changed in a skipped step";
  }
  options.should_stop = {};
  try {
    training.run(options);
    FAIL() << "it went on";
  } catch (const Diverged& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("up to step 4"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("learning_rate 1e+15"));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << "every rank must know";
  }
  const std::vector<json> lines = training.lines(options);
  ASSERT_GE(lines.size(), 3U);
  EXPECT_FALSE(lines[0].contains("skipped"));
  EXPECT_EQ(lines[1]["skipped"], true);
  EXPECT_TRUE(std::filesystem::exists(training.job(options) / "checkpoints/s00000003-t0003/MANIFEST.json"))
      << "what was begun before it gave up";
  EXPECT_FALSE(std::filesystem::exists(training.output(options)));
}

TEST(TrainerTest, RanksWithoutRowsAreToldOnceWithTheNumbers) {
  for (const int ranks : {4, 5}) {
    TinyTraining training;  // 4 rows in a micro-batch
    training.spec.set_steps(1);
    set_log_level(LogLevel::kWarning);
    ::testing::internal::CaptureStderr();
    ASSERT_TRUE(training.run({.ranks = ranks}));
    const std::string log = ::testing::internal::GetCapturedStderr();
    const std::string expected =
        "event=ranks_without_rows; 1 of 5 ranks get no row of a global micro-batch, which has micro_batch_rows 4";
    EXPECT_EQ(log.find(expected) != std::string::npos, ranks == 5) << log;
    EXPECT_EQ(log.find(expected), log.rfind(expected)) << log;
    set_log_level(LogLevel::kError);
  }
}

TEST(TrainerTest, ErrorsOfModelAndDataAreKnownToAllRanks) {
  TinyTraining training;
  write_file_atomically(training.folder() / "bad.jsonl", "{\"ids\": [1, 2, 3]}\n{\"ids\": [1, 61]}\n");
  training.spec.mutable_data(0)->set_path(training.folder() / "bad.jsonl");
  try {
    training.run({.ranks = 2, .expert_parallel = 2});
    FAIL() << "token 61 of 61 was accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("bad.jsonl:2"));
  }
  EXPECT_FALSE(std::filesystem::exists(training.folder() / "job/attempts")) << "nothing half-written";
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

TEST(TrainerTest, RanksThatComputedOtherWeightsAreNamedAndSaveNothing) {
  const TinyTraining training;
  Options options{.ranks = 2, .expert_parallel = 1};
  // From step 4 on rank 1 rounds upwards: a machine that computes wrongly in the last bit.
  options.should_stop = [](int rank) {
    static std::atomic<int> steps{0};
    if (rank == 1 && ++steps == 4) std::fesetround(FE_UPWARD);
    return false;
  };
  try {
    training.run(options);
    FAIL() << "nobody noticed";
  } catch (const HardwareError& error) {
    EXPECT_THAT(error.what(),
                ::testing::AllOf(::testing::HasSubstr("after step 6"), ::testing::HasSubstr(" on rank 0 ("),
                                 ::testing::HasSubstr(" on rank 1 ("), ::testing::HasSubstr("model.layers.0.")));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << "every rank must know";
  }
  EXPECT_FALSE(training.checkpoint(options, 3, 1).empty());
  EXPECT_FALSE(std::filesystem::exists(training.job(options) / "checkpoints/s00000006-t0001"));
}

}  // namespace
}  // namespace moe
