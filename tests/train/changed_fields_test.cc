// A training that was killed, and then asked for with one field changed: every field of the schema, by reflection.
// docs/resume.md has the rule for users; src/pipeline/field_effects.cc the class of each field.

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "checkpoint/manifest.h"
#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/defaults.h"
#include "train/train_fixture.h"
#include "worker/earlier_work.h"
#include "worker/stage_inputs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TinyTraining;
using Options = TinyTraining::Options;

/// Files below a folder with their digests.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder)] = xxh3_hex_of_file(entry.path());
  }
  return files;
}

/// One stage, run as `moe-worker run` runs it, without processes: what is there is judged, then trained.
class ChangedFieldsTest : public ::testing::Test {
 protected:
  ChangedFieldsTest() : training_("float64") {
    stage_.set_name("train");
    stage_.set_seed(3);
    stage_.mutable_gang()->set_ranks(1);
    stage_.mutable_gang()->set_expert_parallel(1);
    stage_.mutable_gang()->set_dtype("float64");
    training_.spec.set_input(training_.folder() / "model");
    training_.spec.set_template_("plain_markers");
    v1::DataSource* held = training_.spec.add_validation();
    held->set_path(training_.folder() / "held.jsonl");
    training_.spec.set_validate_every(4);
    *stage_.mutable_train() = training_.spec;
    stage_ = effective(stage_);
  }

  static v1::Stage effective(const v1::Stage& stage) {
    v1::PipelineSpec spec;
    *spec.add_stages() = stage;
    return effective_spec(spec).stages(0);
  }

  Configuration configuration_of(const v1::Stage& stage) const {
    v1::PipelineSpec spec;
    *spec.add_stages() = stage;
    return StageInputs(spec).configuration_of(stage);
  }

  struct Ran {
    EarlierWork earlier;
    std::vector<int64_t> steps;  ///< that this run itself made
    Options options;
  };

  /// Throws what the run throws. `kill_at`: 0, to its end.
  Ran run(const v1::Stage& stage, const std::string& job, bool fresh = false, int64_t kill_at = 0) {
    Ran ran;
    const Configuration now = configuration_of(stage);
    ran.options.job = job;
    const JobFolder files(training_.job(ran.options));
    ran.earlier = earlier_work(files, now, fresh);
    if (ran.earlier.record) return ran;
    training_.spec = stage.train();
    ran.options.attempt = files.next_attempt();
    ran.options.ranks = stage.gang().ranks();
    ran.options.expert_parallel = stage.gang().expert_parallel();
    ran.options.configuration = to_json(now);
    ran.options.checkpoints = {.resumable = ran.earlier.resumable,
                               .is_ours = [now](const json& scalars) { return may_go_on_from(scalars, now); },
                               .commit = nullptr};
    files.record_begun(ran.options.attempt, ran.options.configuration);
    ran.options.progress = [&](const TrainRequest::Progress& at) {
      ran.steps.push_back(at.step);
      if (at.step == kill_at) throw std::runtime_error("killed by the test");
    };
    if (kill_at > 0) {
      EXPECT_THROW(training_.run(ran.options), std::runtime_error);
    } else {
      EXPECT_TRUE(training_.run(ran.options));
      json record = to_json(now);
      record["attempt"] = ran.options.attempt;
      // The fixture's outputs have names of their own.
      fs::rename(training_.output(ran.options), files.output_path(ran.options.attempt));
      files.record_finished(ran.options.attempt, record);
    }
    ran.options.progress = {};
    return ran;
  }

  fs::path folder(const std::string& job) const { return training_.folder() / job; }
  std::map<std::string, std::string> weights(const Ran& ran) const {
    std::map<std::string, std::string> files =
        contents(JobFolder(folder(ran.options.job)).output_path(ran.options.attempt));
    std::erase_if(files, [](const auto& file) { return !file.first.ends_with(".safetensors"); });
    return files;
  }
  std::map<std::string, std::string> checkpoints(const std::string& job) const {
    return contents(folder(job) / "checkpoints");
  }
  /// Another job that was killed at the same place.
  void copy(const std::string& from, const std::string& to) const {
    fs::copy(folder(from), folder(to), fs::copy_options::recursive);
  }

  TinyTraining training_;
  v1::Stage stage_;
};

struct Field {
  std::string path;   ///< "train.data.0.weight"
  std::string plain;  ///< "train.data.weight"
  const FieldDescriptor* descriptor;
};

/// Visits every field of the message that may hold a value, set or not.
void for_each_field(Message& message, const Field& at, const std::function<void(Message&, const Field&)>& visit) {
  const auto& reflection = *message.GetReflection();
  const auto joined = [](const std::string& a, const std::string& b) { return a.empty() ? b : a + "." + b; };
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    const Field here{joined(at.path, field->name()), joined(at.plain, field->name()), field};
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      visit(message, here);
    } else if (!field->is_repeated()) {
      if (reflection.HasField(message, field)) for_each_field(*reflection.MutableMessage(&message, field), here, visit);
    } else {
      for (int k = 0; k < reflection.FieldSize(message, field); ++k) {
        for_each_field(*reflection.MutableRepeatedMessage(&message, field, k),
                       {concat(here.path, ".", k), here.plain, field}, visit);
      }
    }
  }
}

void set_another(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, !reflection.GetBool(message, &field));
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&message, &field, reflection.GetInt32(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, reflection.GetInt64(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&message, &field, reflection.GetUInt64(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, reflection.GetDouble(message, &field) * 1.25 + 0.125);
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, reflection.GetString(message, &field) + "-other");
    default: FAIL() << field.full_name();
  }
}

TEST_F(ChangedFieldsTest, EveryFieldOfAKilledTraining) {
  stage_.mutable_train()->set_steps(6);
  const Ran undisturbed = run(stage_, "undisturbed");
  run(stage_, "killed", false, 5);
  const auto saved = checkpoints("killed");
  ASSERT_FALSE(saved.empty());

  std::vector<Field> fields;
  v1::Stage walked = stage_;
  for_each_field(walked, {}, [&](Message&, const Field& field) { fields.push_back(field); });
  std::map<FieldEffect, int> tried;
  for (const Field& field : fields) {
    SCOPED_TRACE(field.path);
    FieldEffect effect = effect_of(field.plain, *field.descriptor);
    const bool names_a_file = effect == FieldEffect::kContents;
    if (field.plain.starts_with("train.validation.")) effect = FieldEffect::kMeasure;
    ++tried[effect];
    const std::string job = "job-" + field.path;
    copy("killed", job);
    v1::Stage changed = stage_;
    for_each_field(changed, {}, [&](Message& message, const Field& here) {
      if (here.path != field.path) return;
      if (!names_a_file) return set_another(message, *field.descriptor);
      // The same contents, elsewhere.
      const std::string was = message.GetReflection()->GetString(message, field.descriptor);
      const fs::path is = training_.folder() / ("moved-" + field.path);
      fs::copy(was, is, fs::copy_options::recursive);
      message.GetReflection()->SetString(&message, field.descriptor, is);
    });
    if (effect == FieldEffect::kResult) {
      try {
        run(changed, job);
        ADD_FAILURE() << "it did not stop";
      } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(),
                    AllOf(HasSubstr(field.path + " was "), HasSubstr("s00000003-t0001"), HasSubstr("--fresh")));
      }
      EXPECT_EQ(checkpoints(job), saved) << "a checkpoint was touched";
      EXPECT_FALSE(fs::exists(folder(job) / "attempts/0002"));
      continue;
    }
    if (field.plain == "train.validation.special_tokens") {  // no other value can be run: these files hold ids
      const EarlierWork judged = earlier_work(JobFolder(folder(job)), configuration_of(changed), false);
      EXPECT_THAT(judged.resumable, ElementsAre("s00000003-t0001"));
      continue;
    }
    // Layouts that there are: two ranks, with experts on each or spread.
    if (effect == FieldEffect::kLayout) changed.mutable_gang()->set_ranks(2);
    if (field.path == "gang.device") changed.mutable_gang()->set_ranks(1);
    const Ran ran = run(changed, job);
    ASSERT_FALSE(ran.steps.empty());
    EXPECT_EQ(ran.steps.front(), 4) << "it goes on at step 3";
    EXPECT_THAT(ran.earlier.note, HasSubstr("goes on at step 3 (s00000003-t0001)"));
    if (!names_a_file) {
      EXPECT_THAT(ran.earlier.note, HasSubstr(field.path + " was "));
    }
    if (effect == FieldEffect::kLayout) {
      const std::vector<json> lines = training_.lines(ran.options), expected = training_.lines(undisturbed.options);
      ASSERT_EQ(lines.size(), expected.size());
      for (size_t i = 0; i < lines.size(); ++i) {
        EXPECT_NEAR(lines[i]["loss"].get<double>() / expected[i]["loss"].get<double>(), 1, 1e-9) << "step " << i + 1;
        EXPECT_EQ(lines[i]["expert_load"], expected[i]["expert_load"]) << "step " << i + 1;
      }
    } else if (effect == FieldEffect::kMore) {
      EXPECT_EQ(ran.steps.back(), 7);
    } else {
      EXPECT_EQ(weights(ran), weights(undisturbed)) << "other bits";
    }
  }
  std::cout << fields.size() << " fields of a training stage: " << tried[FieldEffect::kResult] << " stop, "
            << tried[FieldEffect::kBookkeeping] << " bookkeeping, " << tried[FieldEffect::kMeasure] << " measures, "
            << tried[FieldEffect::kContents] << " files and models, " << tried[FieldEffect::kLayout] << " layout, "
            << tried[FieldEffect::kMore] << " more steps go on\n";
  EXPECT_EQ(tried[FieldEffect::kMore], 1);
  EXPECT_EQ(tried[FieldEffect::kLayout], 3);
  EXPECT_EQ(tried[FieldEffect::kContents], 2);
  EXPECT_GE(tried[FieldEffect::kBookkeeping], 5);
  EXPECT_GE(tried[FieldEffect::kResult], 20);
}

TEST_F(ChangedFieldsTest, ContentsThatChangedStopAndAreNamed) {
  run(stage_, "killed", false, 5);
  const auto saved = checkpoints("killed");
  const auto refusal = [&]() -> std::string {
    try {
      run(stage_, "killed");
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
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
  EXPECT_EQ(run(stage_, "killed").steps.front(), 4) << "put back, it goes on";
}

TEST_F(ChangedFieldsTest, MoreStepsFollowTheLongerCosineFromThereAndKeepTheWarmUp) {
  stage_.mutable_train()->set_steps(40);
  stage_.mutable_train()->clear_warmup_steps();  // 5 %: 2 of 40, 4 of 80
  stage_.mutable_train()->set_checkpoint_every(3);
  const v1::Stage forty = effective(stage_);
  const Ran killed = run(forty, "job", false, 7);
  stage_.mutable_train()->set_steps(80);
  const v1::Stage eighty = effective(stage_);
  ASSERT_EQ(eighty.train().warmup_steps(), 4);
  const Ran again = run(eighty, "job", false, 10);  // saves at 9
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
  EXPECT_EQ(scalars["schedule"], json({{"peak", 1e-2}, {"floor", 0.1}, {"warmup_steps", 2}, {"steps", 80}}));
  EXPECT_EQ(scalars["config"]["train"]["learning_rate"], 1e-2);
  // Killed and started again after that, nothing is said of steps any more, and the warm-up is still the one that was.
  const Ran third = run(eighty, "job", false, 16);  // saves at 12 and 15
  EXPECT_THAT(third.earlier.note, AllOf(HasSubstr("goes on at step 9"), Not(HasSubstr("train."))));
  EXPECT_NEAR(training_.lines(third.options)[11]["learning_rate"].get<double>(), cosine(12, 2, 80), 1e-12);
  EXPECT_THROW(run(forty, "job"), InvalidArgument) << "fewer steps do not continue it";
  stage_.mutable_train()->set_steps(160);
  const Ran raised_again = run(effective(stage_), "job", false, 17);
  EXPECT_NEAR(training_.lines(raised_again.options)[15]["learning_rate"].get<double>(), cosine(16, 2, 160), 1e-12);
}

TEST_F(ChangedFieldsTest, FreshBeginsBesideAndDeletesNothing) {
  const Ran undisturbed = run(stage_, "undisturbed");
  run(stage_, "job", false, 8);  // saved at 3 and 6
  const auto saved = checkpoints("job");
  v1::Stage other = stage_;
  other.mutable_train()->set_learning_rate(2e-2);
  EXPECT_THROW(run(other, "job"), InvalidArgument);
  const Ran begun = run(other, "job", /*fresh=*/true, 2);
  EXPECT_THAT(begun.earlier.note, HasSubstr("earlier checkpoints stay"));
  EXPECT_EQ(begun.steps.front(), 1);
  // Killed before its first checkpoint: to begin beside the others was decided already.
  const Ran again = run(other, "job", false, 8);
  EXPECT_EQ(again.steps.front(), 1);
  EXPECT_THAT(again.earlier.note, HasSubstr("checkpoints of another configuration stay"));
  EXPECT_EQ(run(other, "job").steps.front(), 7);
  for (const auto& [name, digest] : saved) EXPECT_EQ(checkpoints("job").at(name), digest) << name;

  // Back at the first configuration, its own checkpoints and its own lines are gone on from.
  const Ran back = run(stage_, "job");
  EXPECT_EQ(back.steps.front(), 7);
  EXPECT_EQ(training_.lines(back.options), training_.lines(undisturbed.options));
  EXPECT_EQ(weights(back), weights(undisturbed));
  // Both are finished now, each for itself.
  EXPECT_TRUE(run(stage_, "job").earlier.record);
  EXPECT_TRUE(run(other, "job").earlier.record);
}

TEST_F(ChangedFieldsTest, AFinishedTrainingIsNotRunAgainForBookkeeping) {
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
  EXPECT_EQ(remeasured.steps.front(), 10);
  EXPECT_EQ(weights(remeasured), weights(done));
  // Another result: begins anew, since the finished one loses nothing by it, and says why.
  v1::Stage other = stage_;
  other.set_seed(4);
  const Ran anew = run(other, "job", false, 2);
  EXPECT_EQ(anew.steps.front(), 1);
  EXPECT_THAT(anew.earlier.note, AllOf(HasSubstr("output-t0002 stays"), HasSubstr("seed was 3 and is 4")));
  EXPECT_TRUE(run(stage_, "job").earlier.record);
}

TEST_F(ChangedFieldsTest, ALeasedJobNamesTheInputThatChangedAndGoesOnWhenItIsBack) {
  run(stage_, "job", false, 8);
  const JobFolder job(folder("job"));
  const std::vector<std::string> committed{"s00000006-t0001", "s00000003-t0001"};
  EXPECT_EQ(resumable_of(job, committed, configuration_of(stage_)), committed);
  EXPECT_TRUE(resumable_of(job, {}, configuration_of(stage_)).empty());
  const std::string data = training_.folder() / "train.jsonl", text = read_file(data);
  write_file_atomically(data, text + "{\"ids\": [1, 2, 3]}\n");
  try {
    resumable_of(job, committed, configuration_of(stage_));
    FAIL() << "resumed on other data";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("file " + data + " does not hold what it held"), HasSubstr("moectl retry")));
  }
  write_file_atomically(data, text);
  EXPECT_EQ(resumable_of(job, committed, configuration_of(stage_)), committed);
}

TEST_F(ChangedFieldsTest, ADamagedManifestIsJudgedByTheAttemptThatWroteIt) {
  run(stage_, "job", false, 8);
  const fs::path manifest = folder("job") / "checkpoints/s00000006-t0001/MANIFEST.json";
  write_file_atomically(manifest, "{");
  const EarlierWork work = earlier_work(JobFolder(folder("job")), configuration_of(stage_), false);
  EXPECT_THAT(work.resumable, ElementsAre("s00000006-t0001", "s00000003-t0001")) << "a warning names the damaged one";
  EXPECT_THAT(work.note, HasSubstr("goes on at step 3"));
  v1::Stage other = stage_;
  other.set_seed(4);
  EXPECT_THROW(run(other, "job"), InvalidArgument);
}

TEST_F(ChangedFieldsTest, CheckpointsOfAVersionThatRecordedLessAreTakenWhereTheDataIsTheSame) {
  run(stage_, "job", false, 5);
  const fs::path checkpoint = folder("job") / "checkpoints/s00000003-t0001";
  Manifest manifest = Manifest::read(checkpoint);
  for (const char* key : {"config", "inputs", "schedule", "attempt"}) manifest.scalars.erase(key);
  write_file_atomically(checkpoint / "MANIFEST.json", manifest.to_text());
  fs::remove(folder("job") / "attempts/0001/inputs.json");
  copy("job", "other-data");
  EXPECT_EQ(run(stage_, "job").steps.front(), 4);
  write_file_atomically(training_.folder() / "train.jsonl",
                        read_file(training_.folder() / "train.jsonl") + "{\"ids\": [1, 2, 3]}\n");
  EXPECT_THROW(run(stage_, "other-data"), InvalidArgument);
}

}  // namespace
}  // namespace moe
