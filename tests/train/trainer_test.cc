#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
  EXPECT_LE(metrics.at("load_min_over_mean"), 1);
  EXPECT_EQ(metrics.at("dead_expert_fraction"), 0);
  EXPECT_EQ(outcome->details["curve"].size(), 10U);
  EXPECT_EQ(outcome->details["validation"].size(), 3U);
  const json& vitality = outcome->details["expert_vitality"];
  ASSERT_EQ(vitality.size(), 3U);
  EXPECT_EQ(vitality[1]["step"], 8);
  ASSERT_EQ(lines[9]["expert_vitality"].size(), 2U);
  for (size_t layer = 0; layer < 2; ++layer) {
    const json& line = lines[9]["expert_vitality"][layer];
    double share = 0, least = 1;
    for (const double one : line["output_share"]) {
      share += one;
      least = std::min(least, one);
    }
    EXPECT_NEAR(share, 1, 1e-6) << "there is no shared expert";
    EXPECT_NEAR(line["least_share_over_mean"].get<double>(), 4 * least, 1e-6);
    EXPECT_EQ(line["weight_norm"].size(), 4U);
    EXPECT_EQ(vitality[2]["parts"][layer]["least_share_over_mean"], line["least_share_over_mean"]);
    EXPECT_FALSE(vitality[2]["parts"][layer].contains("output_share")) << "details grow with the validations";
  }
  EXPECT_NE(lines[3]["expert_vitality"], lines[9]["expert_vitality"]) << "the weights moved";
  for (const char* name : {"least_output_share_over_mean", "least_expert_rms_over_mean"}) {
    EXPECT_EQ(metrics.at(name), lines[9][name].get<double>());
    EXPECT_GT(metrics.at(name), 0);
    EXPECT_LE(metrics.at(name), 1);
  }
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

TEST(TrainerTest, KilledOnTwoRanksItResumesBitForBit) {
  const TinyTraining training;
  training.expect_resumes_bit_for_bit();
}

TEST(TrainerTest, ResumesAtAnotherLayout) {
  const TinyTraining training("float64");
  training.expect_moves_between_layouts(2);
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
    for (const char* measured : {"validation_loss", "validation", "expert_vitality", "least_expert_rms_over_mean",
                                 "least_output_share_over_mean"})
      EXPECT_EQ(line.erase(measured), 1U) << measured;
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
