// A training that was killed, and then asked for with one field changed: every field of the schema, by reflection.
// docs/resume.md has the rule for users; src/pipeline/kinds/train.cc the class of each field.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/proto_fields.h"
#include "train/stage_runs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using google::protobuf::Message;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ProtoField;
using ::testing::ThrowsMessage;

class ChangedFieldsTest : public testing::StageRuns {};

TEST_F(ChangedFieldsTest, EveryFieldOfAKilledTraining) {
  stage_.mutable_train()->set_steps(6);
  const Ran undisturbed = run(stage_, "undisturbed");
  run(stage_, "killed", false, 5);
  const auto saved = checkpoints("killed");
  ASSERT_FALSE(saved.empty());

  std::vector<ProtoField> fields;
  v1::Stage walked = stage_;
  testing::for_each_field(walked, [&](Message&, const ProtoField& field) { fields.push_back(field); });
  std::map<FieldEffect, int> tried;
  for (const ProtoField& field : fields) {
    SCOPED_TRACE(field.path);
    FieldEffect effect = effect_of(field.plain, *field.descriptor);
    const bool names_a_file = effect == FieldEffect::kContents;
    if (field.plain.starts_with("train.validation.")) effect = FieldEffect::kMeasure;
    ++tried[effect];
    const std::string job = "job-" + field.path;
    copy("killed", job);
    v1::Stage changed = stage_;
    testing::for_each_field(changed, [&](Message& message, const ProtoField& here) {
      if (here.path != field.path) return;
      if (!names_a_file) return testing::set_another(message, *field.descriptor);
      // The same contents, elsewhere.
      const std::string was = message.GetReflection()->GetString(message, field.descriptor);
      const fs::path is = training_.folder() / ("moved-" + field.path);
      fs::copy(was, is, fs::copy_options::recursive);
      message.GetReflection()->SetString(&message, field.descriptor, is);
    });
    if (effect == FieldEffect::kResult) {
      EXPECT_THAT([&] { run(changed, job); },
                  ThrowsMessage<InvalidArgument>(
                      AllOf(HasSubstr(field.path + " was "), HasSubstr("s00000003-t0001"), HasSubstr("--fresh"))));
      EXPECT_EQ(checkpoints(job), saved) << "a checkpoint was touched";
      EXPECT_FALSE(fs::exists(folder(job) / "attempts/0002"));
      continue;
    }
    if (field.plain == "train.validation.special_tokens") {  // no other value can be run: these files hold ids
      const EarlierWork judged = earlier_work(JobFolder(folder(job)), configuration_of(changed));
      EXPECT_THAT(judged.resumable, ElementsAre("s00000003-t0001"));
      continue;
    }
    // Layouts that there are: two ranks, with experts on each or spread.
    if (effect == FieldEffect::kLayout) changed.mutable_gang()->set_ranks(2);
    if (field.path == "gang.device") changed.mutable_gang()->set_ranks(1);
    const Ran ran = run(changed, job);
    ASSERT_FALSE(ran.steps.empty());
    EXPECT_EQ(ran.first_step(), 4) << "it goes on at step 3";
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

}  // namespace
}  // namespace moe
