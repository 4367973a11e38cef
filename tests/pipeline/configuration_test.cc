#include "pipeline/configuration.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <set>

#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"
#include "testing/proto_fields.h"

namespace moe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using ::testing::HasSubstr;
using testing::ProtoField;
using ::testing::SizeIs;

v1::PipelineSpec sample() {
  return effective_spec(load_pipeline_or_throw(R"(apiVersion: moe/v1
kind: Pipeline
name: a
inputs: {dense: {path: models/dense}}
defaults: {gang: {ranks: 4, expert_parallel: 2}, seed: 9}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 2}, scale: {mode: fixed, value: 2.5, alignment: variance}, reconstruction: {steps: 20},
                              calibration: {data: [{path: data/books.train.jsonl}], template: chatml}}}
  - {name: train, train: {input: convert.model, steps: 100, sequence_length: 64, template: chatml,
                          data: [{path: a/b.jsonl, weight: 2}, {path: a/c.jsonl}], validation: [{path: a/v.jsonl}]}}
  - {name: evaluate, evaluate: {input: train.model, baseline: dense, sequence_length: 64, template: chatml, data: [{path: v.jsonl}]}}
  - {name: export, export: {input: train.model}}
  - {name: analyze, analyze: {input: train.model, baseline: convert.model, analyses: [routing], sequence_length: 64,
                             template: chatml, data: [{path: v.jsonl}]}}
)",
                                               "a.yaml", {}, {}));
}

/// With a digest for every file and model: that of its name.
Configuration configuration_of(const v1::Stage& stage) {
  Configuration configuration{stage, {}};
  visit_contents(stage, [&](const std::string& path, const std::string& value, bool) {
    configuration.inputs[path] = "of " + value;
  });
  return configuration;
}

Configuration stage_of(const std::string& kind) {
  const v1::PipelineSpec spec = sample();
  for (const v1::Stage& stage : spec.stages()) {
    if (stage_kind(stage) == kind) return configuration_of(stage);
  }
  throw std::runtime_error(kind);
}

/// Every field of the schema that holds a value, as field_effects() names it; `visit` of each message's own, once.
void walk(const Descriptor& type, std::set<std::string>& seen, std::set<std::string>& leaves,
          std::set<std::string>& containers) {
  if (!seen.insert(type.full_name()).second) return;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!type.options().map_entry()) (is_message ? containers : leaves).insert(type.name() + "." + field.name());
    if (is_message) walk(*field.message_type(), seen, leaves, containers);
  }
}

TEST(FieldEffectsTest, EveryFieldOfTheSchemaHasOneClassAndEveryRowAField) {
  std::set<std::string> seen, leaves, containers;
  walk(*v1::PipelineSpec::descriptor(), seen, leaves, containers);
  EXPECT_GE(leaves.size(), 70U);
  for (const std::string& leaf : leaves) {
    // Inside a measure all is one; such a field needs no row of its own.
    EXPECT_TRUE(field_effects().contains(leaf))
        << leaf
        << " has no class: give it one in the row of its kind (src/pipeline/kinds) or in src/pipeline/field_effects.cc";
  }
  const std::set<std::string> paths{"convert.calibration.data.domain", "train.data.domain"};
  for (const auto& [row, effect] : field_effects()) {
    EXPECT_TRUE(leaves.contains(row) || containers.contains(row) || paths.contains(row)) << row << " names no field";
  }
}

// What may change without a stop, restated by hand: a field that moves here by mistake would resume what it must not.
TEST(FieldEffectsTest, WhatIsNoResult) {
  const std::map<FieldEffect, std::set<std::string>> expected{
      {FieldEffect::kContents,
       {"Input.path", "DataSource.path", "ConvertSpec.input", "TrainSpec.input", "ExportSpec.input",
        "EvaluateSpec.input", "EvaluateSpec.baseline", "AnalyzeSpec.input", "AnalyzeSpec.baseline",
        "FfnExpertsSpec.others"}},
      {FieldEffect::kMeasure, {"DataSource.domain", "TrainSpec.validation", "TrainSpec.validation_tokens"}},
      {FieldEffect::kMore, {"TrainSpec.steps"}},
      {FieldEffect::kLayout, {"GangSpec.ranks", "GangSpec.device", "GangSpec.expert_parallel"}},
      {FieldEffect::kBookkeeping,
       {"PipelineSpec.api_version", "PipelineSpec.kind", "PipelineSpec.name", "GateSpec.name", "GateSpec.metric",
        "GateSpec.op", "GateSpec.value", "GateSpec.on_fail", "Stage.name", "convert.calibration.data.domain",
        "train.data.domain", "TrainSpec.validate_every", "TrainSpec.checkpoint_every", "TrainSpec.keep_checkpoints"}}};
  std::map<FieldEffect, std::set<std::string>> found;
  for (const auto& [row, effect] : field_effects()) {
    if (effect != FieldEffect::kResult) found[effect].insert(row);
  }
  EXPECT_EQ(found, expected);
}

TEST(ConfigurationTest, EveryChangedFieldOfEveryKindIsNamedWithItsClass) {
  int changed = 0;
  for (const std::string& kind : job_kinds().names()) {
    const Configuration before = stage_of(kind);
    std::vector<ProtoField> fields;
    v1::Stage walked = before.stage;
    testing::for_each_field(walked, [&](Message&, const ProtoField& field) { fields.push_back(field); });
    for (const ProtoField& field : fields) {
      SCOPED_TRACE(field.path);
      v1::Stage stage = before.stage;
      testing::for_each_field(stage, [&](Message& message, const ProtoField& here) {
        if (here.path == field.path) testing::set_another(message, *here.descriptor);
      });
      FieldEffect effect = effect_of(field.plain, *field.descriptor);
      if (field.plain.starts_with("train.validation.")) effect = FieldEffect::kMeasure;
      if (effect == FieldEffect::kContents) effect = FieldEffect::kResult;
      const std::vector<FieldChange> found = changes(before, configuration_of(stage));
      ASSERT_THAT(found, SizeIs(1));
      EXPECT_EQ(found[0].path, field.path);
      EXPECT_THAT(found[0].text, HasSubstr(field.path));
      EXPECT_EQ(found[0].effect, effect);
      EXPECT_EQ(may_go_on(found), effect != FieldEffect::kResult);
      EXPECT_EQ(is_same_result(found), effect == FieldEffect::kLayout || effect == FieldEffect::kBookkeeping);
      const bool is_other_model = effect == FieldEffect::kResult || effect == FieldEffect::kMore;
      EXPECT_EQ(digest_of(configuration_of(stage)) != digest_of(before), is_other_model);
      ++changed;
    }
  }
  EXPECT_GT(changed, 80);
}

TEST(ConfigurationTest, ARecordComesBackAndSaysTheSame) {
  for (const std::string& kind : job_kinds().names()) {
    const Configuration before = stage_of(kind);
    const std::optional<Configuration> back = configuration_from(nlohmann::json::parse(to_json(before).dump()));
    ASSERT_TRUE(back) << kind;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(back->stage, before.stage)) << kind;
    EXPECT_EQ(back->inputs, before.inputs);
    EXPECT_THAT(changes(*back, before), SizeIs(0)) << kind;
    EXPECT_EQ(digest_of(*back), digest_of(before));
  }
}

TEST(ConfigurationTest, WhatIsAbsentStaysAbsent) {
  Configuration before = stage_of("train");
  before.stage.mutable_train()->clear_sequence_length();
  before.stage.mutable_train()->clear_template_();
  const std::optional<Configuration> back = configuration_from(to_json(before));
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->stage.train().has_sequence_length());
  EXPECT_THAT(changes(*back, before), SizeIs(0));
  const std::vector<FieldChange> found = changes(before, stage_of("train"));
  EXPECT_THAT(to_text(found), HasSubstr("train.sequence_length was not given and is 64"));
  EXPECT_THAT(to_text(changes(stage_of("train"), before)), HasSubstr("train.template was chatml and is not given"));
}

// A program that knows one field more must not throw away what was made before there was the field.
TEST(ConfigurationTest, AFieldThatWasNotInTheSchemaHasItsDefault) {
  nlohmann::json record = to_json(stage_of("train"));
  ASSERT_EQ(record["config"]["train"].erase("drop_system"), 1U);
  EXPECT_THAT(changes(*configuration_from(record), stage_of("train")), SizeIs(0));
  // The job in the store of a coordinator that was started before: it has the field neither.
  Configuration older = stage_of("train");
  older.stage.mutable_train()->clear_drop_system();
  older.stage.mutable_train()->mutable_data(0)->clear_special_tokens();
  EXPECT_THAT(changes(stage_of("train"), older), SizeIs(0));
  EXPECT_THAT(changes(older, stage_of("train")), SizeIs(0));
  EXPECT_EQ(digest_of(older), digest_of(stage_of("train")));
  record["config"]["train"]["of_a_later_version"] = 1;
  EXPECT_FALSE(configuration_from(record)) << "it may decide the result";
  EXPECT_FALSE(configuration_from(nullptr));
  EXPECT_FALSE(configuration_from({{"step", 1}}));
}

TEST(ConfigurationTest, MoreStepsContinueAndFewerDoNot) {
  const Configuration before = stage_of("train");
  v1::TrainSpec asked = before.stage.train();
  const auto with_steps = [&](int64_t steps, std::optional<int64_t> warmup) {
    Configuration now = before;
    now.stage.mutable_train()->set_steps(steps);
    now.stage.mutable_train()->clear_warmup_steps();
    if (warmup) now.stage.mutable_train()->set_warmup_steps(*warmup);
    kind_of(now.stage)->fill(now.stage);
    return now;
  };
  ASSERT_EQ(asked.warmup_steps(), 5);
  const std::vector<FieldChange> more = changes(before, with_steps(400, std::nullopt));
  EXPECT_TRUE(may_go_on(more)) << "the warm-up grew with the steps; nobody asked for another";
  EXPECT_FALSE(is_same_result(more));
  EXPECT_THAT(to_text(more), HasSubstr("train.steps was 100 and is 400"));
  EXPECT_THAT(to_text(more), HasSubstr("train.warmup_steps stays as it was begun"));
  EXPECT_TRUE(may_go_on(changes(before, with_steps(400, 5))));
  EXPECT_FALSE(may_go_on(changes(before, with_steps(400, 7))));
  const std::vector<FieldChange> fewer = changes(before, with_steps(60, 5));
  EXPECT_FALSE(may_go_on(fewer));
  EXPECT_THAT(to_text(fewer),
              HasSubstr("train.steps was 100 and is 60 (more steps continue a training, fewer do not)"));
}

// The configuration alone does not tell a training whose steps were raised on the way from one that had them from the
// beginning; what is made from their models must.
TEST(ConfigurationTest, AHistoryMakesAnotherDigestAndNoneThePlainOne) {
  const Configuration training = stage_of("train");
  EXPECT_EQ(digest_of(training, ""), digest_of(training));
  EXPECT_NE(digest_of(training, "40 steps until 6"), digest_of(training));
  EXPECT_NE(digest_of(training, "40 steps until 6"), digest_of(training, "40 steps until 9"));
}

TEST(ConfigurationTest, FilesCountByWhatTheyHold) {
  const Configuration before = stage_of("train");
  Configuration now = before;
  now.stage.mutable_train()->mutable_data(0)->set_path("/elsewhere/other-name.jsonl");
  now.stage.mutable_train()->mutable_data(0)->set_domain("other-name");
  now.stage.mutable_train()->mutable_validation(0)->set_path("./a/../a/v.jsonl");
  now.stage.mutable_train()->set_input("./runs/1/convert/output-t0001");
  EXPECT_TRUE(is_same_result(changes(before, now))) << to_text(changes(before, now));
  EXPECT_EQ(digest_of(before), digest_of(now));

  now = before;
  now.inputs["train.data.1.path"] = "one more line";
  EXPECT_EQ(to_text(changes(before, now)), "train.data.1.path: file a/c.jsonl does not hold what it held");
  EXPECT_FALSE(may_go_on(changes(before, now)));
  now = before;
  now.inputs["train.validation.0.path"] = "one more line";
  EXPECT_TRUE(may_go_on(changes(before, now)));
  EXPECT_FALSE(is_same_result(changes(before, now)));
  now = before;
  now.inputs["train.input"] = "other weights";
  EXPECT_EQ(to_text(changes(before, now)), "train.input: model convert.model does not hold what it held");
  now.inputs.erase("train.input");
  EXPECT_THAT(changes(before, now), SizeIs(0)) << "not known is not another";

  now = before;
  now.stage.mutable_train()->mutable_data()->SwapElements(0, 1);
  std::swap(now.inputs["train.data.0.path"], now.inputs["train.data.1.path"]);
  EXPECT_FALSE(may_go_on(changes(before, now))) << "the order of files decides the order of rows";
  now = before;
  now.stage.mutable_train()->mutable_data()->RemoveLast();
  now.inputs.erase("train.data.1.path");
  EXPECT_EQ(to_text(changes(before, now)), "train.data was 2 entries and is 1 entry");
  EXPECT_EQ(to_text(changes(now, before)), "train.data was 1 entry and is 2 entries");
}

TEST(ConfigurationTest, EachModelOfAListCountsByWhatItHolds) {
  v1::Stage stage = stage_of("convert").stage;
  for (const char* model : {"maths", "./models/code"}) stage.mutable_convert()->mutable_ffn()->add_others(model);
  const Configuration before = configuration_of(stage);
  EXPECT_EQ(before.inputs.at("convert.ffn.others.0"), "of maths");
  EXPECT_EQ(before.inputs.at("convert.ffn.others.1"), "of ./models/code");

  Configuration now = before;
  now.stage.mutable_convert()->mutable_ffn()->set_others(1, "code.model");
  EXPECT_TRUE(is_same_result(changes(before, now))) << to_text(changes(before, now));
  EXPECT_EQ(digest_of(before), digest_of(now));
  now.inputs["convert.ffn.others.1"] = "of code.model";
  EXPECT_EQ(to_text(changes(before, now)),
            "convert.ffn.others.1 was ./models/code and is code.model, a model with other contents");
  EXPECT_NE(digest_of(before), digest_of(now));

  now = before;
  now.stage.mutable_convert()->mutable_ffn()->mutable_others()->SwapElements(0, 1);
  std::swap(now.inputs["convert.ffn.others.0"], now.inputs["convert.ffn.others.1"]);
  EXPECT_FALSE(may_go_on(changes(before, now))) << "the order of models is the order of experts";
  now = before;
  now.stage.mutable_convert()->mutable_ffn()->mutable_others()->RemoveLast();
  now.inputs.erase("convert.ffn.others.1");
  EXPECT_EQ(to_text(changes(before, now)), "convert.ffn.others was 2 entries and is 1 entry");
}

TEST(ConfigurationTest, AnotherKindIsAnotherStage) {
  const std::vector<FieldChange> found = changes(stage_of("train"), stage_of("export"));
  EXPECT_EQ(to_text(found), "the stage was of kind train and is of kind export");
  EXPECT_FALSE(may_go_on(found));
}

}  // namespace
}  // namespace moe
