// A training that was killed or finished, and what of it counts when the stage is asked for again: contents that
// changed, more steps, --fresh, damage. docs/resume.md tells it to users.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/manifest.h"
#include "common/error.h"
#include "common/log.h"
#include "testing/message_of.h"
#include "train/stage_runs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

class EarlierWorkTest : public testing::StageRuns {};

TEST_F(EarlierWorkTest, ContentsThatChangedStopAndAreNamed) {
  run(stage_, "killed", false, 5);
  const auto saved = checkpoints("killed");
  const auto refusal = [&] { return testing::message_of([&] { run(stage_, "killed"); }); };
  const std::string data = training_.folder() / "train.jsonl", text = read_file(data);
  write_file_atomically(data, text + "{\"ids\": [1, 2, 3]}\n");
  EXPECT_THAT(refusal(), HasSubstr("train.data.0.path: file " + data + " does not hold what it held"));
  write_file_atomically(data, text);
  // What a text means is an input too.
  write_file_atomically(training_.folder() / "model/tokenizer_config.json", "{}");
  EXPECT_THAT(refusal(), HasSubstr("train.input: model " + (training_.folder() / "model").string() +
                                   " does not hold what it held"));
  fs::remove(training_.folder() / "model/tokenizer_config.json");
  write_file_atomically(training_.folder() / "model/STAGE.json", "{}");
  EXPECT_EQ(checkpoints("killed"), saved);
  EXPECT_EQ(run(stage_, "killed").first_step(), 4) << "put back, it goes on";
}

TEST_F(EarlierWorkTest, MoreStepsFollowTheLongerCosineFromThereAndKeepTheWarmUp) {
  stage_.mutable_train()->set_steps(40);
  stage_.mutable_train()->clear_warmup_steps();  // 5 %: 2 of 40, 4 of 80
  stage_.mutable_train()->set_checkpoint_every(3);
  const v1::Stage forty = effective(stage_);
  const Ran killed = run(forty, "job", false, 8);  // saved at 3 and 6
  stage_.mutable_train()->set_steps(80);
  const v1::Stage eighty = effective(stage_);
  ASSERT_EQ(eighty.train().warmup_steps(), 4);
  const Ran again = run(eighty, "job", false, 11);  // saves at 9
  EXPECT_THAT(again.earlier.note, AllOf(HasSubstr("goes on at step 6"), HasSubstr("train.steps was 40 and is 80"),
                                        HasSubstr("train.warmup_steps stays as it was begun")));
  const std::vector<json> before = training_.lines(killed.options), after = training_.lines(again.options);
  // The numbers of docs/resume.md, from the formula and not from the code: half a cosine from the end of the warm-up to
  // the last step.
  const auto cosine = [](double step, double warmup, double steps) {
    return 1e-2 * 0.5 * (1 + std::cos(3.14159265358979 * (step - warmup) / (steps - warmup)));
  };
  EXPECT_NEAR(before[6]["learning_rate"].get<double>(), cosine(7, 2, 40), 1e-12);
  EXPECT_EQ(after[5]["learning_rate"], before[5]["learning_rate"]) << "what was done is done";
  EXPECT_NEAR(after[6]["learning_rate"].get<double>(), cosine(7, 2, 80), 1e-12);
  const json scalars = Manifest::read(folder("job") / "checkpoints/s00000009-t0002").scalars;
  EXPECT_EQ(scalars["schedule"], json({{"peak", 1e-2},
                                       {"floor", 0.1},
                                       {"warmup_steps", 2},
                                       {"steps", 80},
                                       {"earlier", {{{"until", 6}, {"steps", 40}, {"warmup_steps", 2}}}}}));
  EXPECT_EQ(scalars["config"]["train"]["learning_rate"], 1e-2);
  // Killed and started again after that, nothing is said of steps any more, and the warm-up is still the one that was.
  const Ran third = run(eighty, "job", false, 17);  // saves at 12 and 15
  EXPECT_THAT(third.earlier.note, AllOf(HasSubstr("goes on at step 9"), Not(HasSubstr("train."))));
  EXPECT_NEAR(training_.lines(third.options)[11]["learning_rate"].get<double>(), cosine(12, 2, 80), 1e-12);
  EXPECT_THROW(run(forty, "job"), InvalidArgument) << "fewer steps do not continue it";
  stage_.mutable_train()->set_steps(160);
  const Ran raised_again = run(effective(stage_), "job", false, 17);
  EXPECT_NEAR(training_.lines(raised_again.options)[15]["learning_rate"].get<double>(), cosine(16, 2, 160), 1e-12);
}

TEST_F(EarlierWorkTest, FreshBeginsBesideAndDeletesNothing) {
  const Ran undisturbed = run(stage_, "undisturbed");
  run(stage_, "job", false, 8);  // saved at 3 and 6
  const auto saved = checkpoints("job");
  v1::Stage other = stage_;
  other.mutable_train()->set_learning_rate(2e-2);
  EXPECT_THROW(run(other, "job"), InvalidArgument);
  const Ran begun = run(other, "job", /*fresh=*/true, 2);
  EXPECT_THAT(begun.earlier.note, AllOf(HasSubstr("as asked with --fresh"), HasSubstr("what was there before stays")));
  EXPECT_EQ(begun.first_step(), 1);
  // Killed before its first checkpoint: to begin beside the others was decided already.
  const Ran again = run(other, "job", false, 8);
  EXPECT_EQ(again.first_step(), 1);
  EXPECT_THAT(again.earlier.note, HasSubstr("as asked with --fresh"));
  EXPECT_EQ(run(other, "job").first_step(), 7);
  for (const auto& [name, digest] : saved) EXPECT_EQ(checkpoints("job").at(name), digest) << name;

  // Back at the first configuration, its own checkpoints and its own lines are gone on from.
  const Ran back = run(stage_, "job");
  EXPECT_EQ(back.first_step(), 7);
  EXPECT_EQ(training_.lines(back.options), training_.lines(undisturbed.options));
  EXPECT_EQ(weights(back), weights(undisturbed));
  // Both are finished now, each for itself.
  EXPECT_TRUE(run(stage_, "job").earlier.record);
  EXPECT_TRUE(run(other, "job").earlier.record);
}

TEST_F(EarlierWorkTest, WhatFreshBeganIsGoneOnWithAndNotTheOldOutput) {
  run(stage_, "job");  // finished; its checkpoints stay too
  v1::Stage other = stage_;
  other.set_seed(4);
  run(other, "job");
  const auto before = contents(folder("job"));
  const Ran begun = run(stage_, "job", /*fresh=*/true, 2);
  EXPECT_EQ(begun.first_step(), 1);
  // Killed before its first checkpoint, then after one: started again without the flag, the old output does not count.
  const Ran again = run(stage_, "job", false, 5);
  EXPECT_FALSE(again.earlier.record);
  EXPECT_EQ(again.first_step(), 1) << "nor do the old checkpoints";
  v1::Stage kept = stage_;
  kept.mutable_train()->set_keep_checkpoints(9);
  const Ran last = run(kept, "job");
  EXPECT_FALSE(last.earlier.record);
  EXPECT_EQ(last.first_step(), 4);
  const Ran done = run(stage_, "job");
  ASSERT_TRUE(done.earlier.record) << "it is finished now";
  EXPECT_EQ((*done.earlier.record)["attempt"], last.options.attempt);
  // Nothing that was there is gone: neither the other configuration's, nor what --fresh began beside.
  EXPECT_TRUE(run(other, "job").earlier.record);
  const auto after = contents(folder("job"));
  for (const auto& [name, digest] : before) {
    if (name.starts_with("output-") || name.ends_with("/MANIFEST.json")) {
      EXPECT_TRUE(after.contains(name) && after.at(name) == digest) << name;
    }
  }
}

TEST_F(EarlierWorkTest, FewerStepsBegunAfreshLeaveTheLongerResult) {
  run(stage_, "job");
  v1::Stage shorter = stage_;
  shorter.mutable_train()->set_steps(6);
  run(shorter, "job", /*fresh=*/true);
  ASSERT_TRUE(run(stage_, "job").earlier.record);
  EXPECT_EQ((*run(stage_, "job").earlier.record)["attempt"], 1);
  v1::Stage longer = stage_;
  longer.mutable_train()->set_steps(12);
  EXPECT_EQ(run(longer, "job", false, 5).first_step(), 4) << "what was begun last goes on: 3 of 6 steps, not 9 of 10";
}

TEST_F(EarlierWorkTest, FreshCountsOnceForALauncher) {
  run(stage_, "job");
  const JobFolder job(folder("job"));
  const Configuration now = configuration_of(stage_);
  EXPECT_TRUE(begin_afresh(job, now, "gang-1"));
  EXPECT_FALSE(earlier_work(job, now).record);
  run(stage_, "job");
  EXPECT_FALSE(begin_afresh(job, now, "gang-1"));  // started again with the same flags
  ASSERT_TRUE(earlier_work(job, now).record);
  EXPECT_EQ((*earlier_work(job, now).record)["attempt"], 2);
  for (const std::string launcher : {"gang-2", "", ""}) {
    EXPECT_TRUE(begin_afresh(job, now, launcher));
    EXPECT_FALSE(earlier_work(job, now).record) << "asked for once more";
    EXPECT_EQ(job.fresh().size(), 1U);
    run(stage_, "job");
  }
  EXPECT_FALSE(begin_afresh(job, now, "gang-1")) << "whoever asked meanwhile, it asked already";
  EXPECT_TRUE(earlier_work(job, now).record);
  v1::Stage other = stage_;
  other.set_seed(4);
  EXPECT_TRUE(begin_afresh(job, configuration_of(other), "gang-1")) << "of this configuration it did not";
}

TEST_F(EarlierWorkTest, WhatFreshBeganStaysBegunWhenSomethingElseIsMeasuredAfresh) {
  run(stage_, "job");
  v1::Stage measured = stage_;
  measured.mutable_train()->add_validation()->set_path(training_.folder() / "train.jsonl");
  const JobFolder job(folder("job"));
  begin_afresh(job, configuration_of(stage_), "");
  begin_afresh(job, configuration_of(measured), "");
  EXPECT_FALSE(earlier_work(job, configuration_of(stage_)).record);
}

TEST_F(EarlierWorkTest, AnOlderResultDoesNotFinishWhatFreshBegan) {
  run(stage_, "job");
  run(stage_, "job", /*fresh=*/true, 5);
  v1::Stage other = stage_;
  other.set_seed(4);
  EXPECT_THROW(run(other, "job"), InvalidArgument);
}

TEST_F(EarlierWorkTest, WhatFreshBeganCountsThoughOlderAttemptsWereRemoved) {
  run(stage_, "job");
  run(stage_, "job");
  run(stage_, "job", /*fresh=*/true, 2);
  for (const char* gone : {"attempts", "checkpoints", "output-t0001"})
    std::filesystem::remove_all(folder("job") / gone);
  run(stage_, "job", false, 5);
  EXPECT_EQ(run(stage_, "job").first_step(), 4);
  EXPECT_TRUE(run(stage_, "job").earlier.record);
}

TEST_F(EarlierWorkTest, DataThatIsChangedAfterItWasRecordedIsNotTrainedOn) {
  const std::string data = training_.folder() / "train.jsonl", text = read_file(data);
  const auto edit = [&] { write_file_atomically(data, text + "{\"ids\": [1, 2, 3]}\n"); };
  for (const int ranks : {1, 2}) {
    stage_.mutable_gang()->set_ranks(ranks);
    const std::string job = concat("job-", ranks);
    EXPECT_THAT([&] { run(stage_, job, false, 0, edit); },
                ThrowsMessage<InvalidArgument>(
                    AllOf(HasSubstr("train.data.0.path: file " + data + " held "), HasSubstr("Put back"))));
    EXPECT_THAT(contents(folder(job)), ::testing::SizeIs(2)) << "half-written";  // stage.json, inputs.json
    write_file_atomically(data, text);
    EXPECT_EQ(run(stage_, job).first_step(), 1);
  }
}

TEST_F(EarlierWorkTest, AnOutputTellsThatItsStepsWereRaised) {
  EXPECT_EQ(run(stage_, "straight").history, "");
  run(stage_, "killed", false, 5);
  EXPECT_EQ(run(stage_, "killed").history, "") << "to be killed changes nothing";
  stage_.mutable_train()->set_steps(12);
  const std::string history = R"([{"steps":10,"until":3,"warmup_steps":2}])";
  run(stage_, "begun", false, 5);
  stage_.mutable_train()->set_steps(10);
  run(stage_, "raised", false, 5);
  stage_.mutable_train()->set_steps(12);
  run(stage_, "raised", false, 8);  // saved at 6
  EXPECT_EQ(run(stage_, "raised").history, history) << "it goes with the checkpoints";
  EXPECT_EQ(run(stage_, "begun").history, "") << "12 from the beginning";
}

TEST_F(EarlierWorkTest, ACheckpointOfAnotherHeightOfTheLearningRateIsRefused) {
  run(stage_, "job", false, 5);
  const fs::path checkpoint = folder("job") / "checkpoints/s00000003-t0001";
  Manifest manifest = Manifest::read(checkpoint);
  manifest.scalars["schedule"]["peak"] = 0.5;
  write_file_atomically(checkpoint / "MANIFEST.json", manifest.to_text());
  EXPECT_THAT([&] { run(stage_, "job"); },
              ThrowsMessage<InvalidArgument>(
                  AllOf(HasSubstr("checkpoint of step 3"), HasSubstr("peak 0.5"), HasSubstr("learning_rate 0.01"))));
}

TEST_F(EarlierWorkTest, AFinishedTrainingIsNotRunAgainForBookkeeping) {
  const Ran done = run(stage_, "job");
  v1::Stage kept = stage_;
  kept.mutable_train()->set_keep_checkpoints(7);
  kept.mutable_train()->set_validate_every(3);
  kept.mutable_gang()->set_ranks(2);
  const Ran again = run(kept, "job");
  ASSERT_TRUE(again.earlier.record);
  EXPECT_EQ((*again.earlier.record)["attempt"], 1);
  // Another measure: from its last checkpoint, and the same model.
  v1::Stage measured = stage_;
  measured.mutable_train()->set_validation_tokens(100);
  const Ran remeasured = run(measured, "job");
  EXPECT_EQ(remeasured.first_step(), 10);
  EXPECT_EQ(weights(remeasured), weights(done));
  // Another result: begins anew, since the finished one loses nothing by it, and says why.
  v1::Stage other = stage_;
  other.set_seed(4);
  const Ran anew = run(other, "job", false, 2);
  EXPECT_EQ(anew.first_step(), 1);
  EXPECT_THAT(anew.earlier.note, AllOf(HasSubstr("output-t0002 stays"), HasSubstr("seed was 3 and is 4")));
  EXPECT_TRUE(run(stage_, "job").earlier.record);
}

TEST_F(EarlierWorkTest, ALeasedJobNamesTheInputThatChangedAndGoesOnWhenItIsBack) {
  run(stage_, "job", false, 8);
  const JobFolder job(folder("job"));
  const std::vector<std::string> committed{"s00000006-t0001", "s00000003-t0001"};
  EXPECT_EQ(resumable_of(job, committed, configuration_of(stage_)), committed);
  EXPECT_TRUE(resumable_of(job, {}, configuration_of(stage_)).empty());
  const std::string data = training_.folder() / "train.jsonl", text = read_file(data);
  write_file_atomically(data, text + "{\"ids\": [1, 2, 3]}\n");
  EXPECT_THAT([&] { resumable_of(job, committed, configuration_of(stage_)); },
              ThrowsMessage<InvalidArgument>(
                  AllOf(HasSubstr("file " + data + " does not hold what it held"), HasSubstr("moectl retry"))));
  write_file_atomically(data, text);
  EXPECT_EQ(resumable_of(job, committed, configuration_of(stage_)), committed);

  // One of them was made with other data: it is left out, and that is said with its folder and why.
  const fs::path odd = job.checkpoints_path() / "s00000006-t0001";
  Manifest manifest = Manifest::read(odd);
  manifest.scalars["inputs"]["train.data.0.path"] = "other data";
  write_file_atomically(odd / "MANIFEST.json", manifest.to_text());
  for (const bool leased : {true, false}) {
    set_log_level(LogLevel::kWarning);
    ::testing::internal::CaptureStderr();
    const std::vector<std::string> found = leased ? resumable_of(job, committed, configuration_of(stage_))
                                                  : earlier_work(job, configuration_of(stage_)).resumable;
    const std::string told = ::testing::internal::GetCapturedStderr();
    set_log_level(LogLevel::kError);
    EXPECT_THAT(found, ElementsAre("s00000003-t0001"));
    EXPECT_THAT(told, AllOf(HasSubstr("event=checkpoint_skipped path=" + odd.string()),
                            HasSubstr("train.data.0.path: file " + data + " does not hold what it held"),
                            Not(HasSubstr("s00000003"))));
  }
}

TEST_F(EarlierWorkTest, ADamagedManifestIsJudgedByTheAttemptThatWroteIt) {
  run(stage_, "job", false, 8);
  const fs::path manifest = folder("job") / "checkpoints/s00000006-t0001/MANIFEST.json";
  write_file_atomically(manifest, "{");
  const EarlierWork work = earlier_work(JobFolder(folder("job")), configuration_of(stage_));
  EXPECT_THAT(work.resumable, ElementsAre("s00000006-t0001", "s00000003-t0001")) << "a warning names the damaged one";
  EXPECT_THAT(work.note, HasSubstr("goes on at step 3"));
  v1::Stage other = stage_;
  other.set_seed(4);
  EXPECT_THROW(run(other, "job"), InvalidArgument);
}

TEST_F(EarlierWorkTest, CheckpointsOfAVersionThatRecordedLessAreTakenWhereTheDataIsTheSame) {
  run(stage_, "job", false, 5);
  const fs::path checkpoint = folder("job") / "checkpoints/s00000003-t0001";
  Manifest manifest = Manifest::read(checkpoint);
  for (const char* key : {"config", "inputs", "schedule", "attempt"}) manifest.scalars.erase(key);
  write_file_atomically(checkpoint / "MANIFEST.json", manifest.to_text());
  fs::remove(folder("job") / "attempts/0001/inputs.json");
  copy("job", "other-data");
  EXPECT_EQ(run(stage_, "job").first_step(), 4);
  write_file_atomically(training_.folder() / "train.jsonl",
                        read_file(training_.folder() / "train.jsonl") + "{\"ids\": [1, 2, 3]}\n");
  EXPECT_THROW(run(stage_, "other-data"), InvalidArgument);
}

}  // namespace
}  // namespace moe
