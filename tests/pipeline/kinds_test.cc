#include "pipeline/kinds/kinds.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/measures.h"
#include "pipeline/configuration.h"
#include "pipeline/defaults.h"
#include "pipeline/inputs.h"
#include "pipeline/metrics.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAreArray;

const OneofDescriptor& oneof() {
  return *v1::Stage::descriptor()->FindOneofByName("kind");
}

/// Every section, list and optional field there, each text another.
void fill_all(Message& message, const std::string& path) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    const std::string text = path + "-" + field->name();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const int count = field->is_repeated() ? 2 : 1;
      for (int k = 0; k < count; ++k) {
        fill_all(field->is_repeated() ? *reflection.AddMessage(&message, field)
                                      : *reflection.MutableMessage(&message, field),
                 text + std::to_string(k));
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      field->is_repeated() ? reflection.AddString(&message, field, text) : reflection.SetString(&message, field, text);
    }
  }
}

v1::Stage stage_of(const std::string& kind, bool is_filled = false) {
  v1::Stage stage;
  stage.set_name("s");
  Message& inside = *stage.GetReflection()->MutableMessage(&stage, v1::Stage::descriptor()->FindFieldByName(kind));
  if (is_filled) fill_all(inside, kind);
  return stage;
}

class EveryKindTest : public ::testing::TestWithParam<std::string> {
 protected:
  const JobKind& kind() const { return job_kinds().at(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKindTest, ::testing::ValuesIn(job_kinds().names()),
                         [](const auto& test) { return test.param; });

TEST(KindsTest, EveryMessageOfAStageButTheGateHasARowAndEveryRowAMessage) {
  std::vector<std::string> messages;
  for (int i = 0; i < oneof().field_count(); ++i) {
    if (oneof().field(i)->name() != "gate") messages.push_back(oneof().field(i)->name());
  }
  EXPECT_THAT(job_kinds().names(), UnorderedElementsAreArray(messages));
  for (const std::string& name : messages) EXPECT_EQ(kind_of(stage_of(name)), kind_named(name));
  EXPECT_EQ(kind_of(stage_of("gate")), nullptr);
  EXPECT_EQ(kind_of(v1::Stage()), nullptr);
  EXPECT_EQ(kind_named("analyse"), nullptr);
}

TEST(KindsTest, NoFieldHasTwoClasses) {
  std::set<std::string> seen;
  for (const std::string& name : job_kinds().names()) {
    for (const auto& [field, effect] : job_kinds().at(name).effects) EXPECT_TRUE(seen.insert(field).second) << field;
  }
}

// A kind that writes JSON is nobody's model.
TEST(KindsTest, WhatJobsLeave) {
  std::vector<std::string> kinds;
  for (const Artifact artifact : {Artifact::kConvertedModel, Artifact::kTrainedModel, Artifact::kExportedModel,
                                  Artifact::kEvaluation, Artifact::kReport}) {
    kinds.emplace_back(to_string(artifact));
    EXPECT_EQ(is_model(artifact), kinds.back() == "model");
  }
  EXPECT_THAT(kinds, ElementsAre("model", "model", "model", "evaluation", "report"));
  for (const char* name : {"convert", "train", "export"}) EXPECT_TRUE(makes_model(stage_of(name))) << name;
  EXPECT_FALSE(makes_model(stage_of("evaluate")));
  EXPECT_FALSE(makes_model(stage_of("gate")));
}

// What the row says it reads is what the classes of its fields say names something.
TEST_P(EveryKindTest, ReadsWhatItsFieldsName) {
  const v1::Stage stage = stage_of(GetParam(), true);
  std::set<std::pair<std::string, bool>> named, read;
  visit_contents(stage, [&](const std::string& path, const std::string& value, bool is_file) {
    EXPECT_THAT(value, Not(IsEmpty())) << path;
    named.emplace(path, is_file);
  });
  for (const StageInput& input : inputs_of(stage)) {
    EXPECT_THAT(input.value, Not(IsEmpty())) << input.field;
    EXPECT_EQ(input.domain.empty(), input.is_model) << input.field;
    read.emplace(input.field, !input.is_model);
  }
  EXPECT_EQ(read, named);
}

TEST_P(EveryKindTest, ReadsOnlyWhatIsThereAndMakesNoSections) {
  const v1::Stage stage = stage_of(GetParam());
  for (const StageInput& input : inputs_of(stage)) EXPECT_TRUE(input.is_model && input.value.empty()) << input.field;
  v1::Stage visited = stage;
  visit_inputs(visited, [](StageInput&) {});
  EXPECT_TRUE(MessageDifferencer::Equals(visited, stage));
}

TEST_P(EveryKindTest, WrittenInputsAreKept) {
  v1::Stage stage = stage_of(GetParam(), true);
  const std::vector<StageInput> before = inputs_of(stage);
  visit_inputs(stage, [](StageInput& input) { input.value = "/root/" + input.value; });
  const std::vector<StageInput> after = inputs_of(stage);
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i].value, "/root/" + before[i].value);
}

TEST_P(EveryKindTest, HasDefaultsMetricsAndAPlan) {
  v1::Stage once = stage_of(GetParam(), true);
  kind().fill(once);
  v1::Stage twice = once;
  kind().fill(twice);
  EXPECT_TRUE(MessageDifferencer::Equals(once, twice));
  EXPECT_THAT(kind().plan(once), Not(IsEmpty()));
  const std::vector<std::string> metrics = metrics_of(once);
  EXPECT_EQ(std::set<std::string>(metrics.begin(), metrics.end()).size(), metrics.size());
  EXPECT_GT(kind().room, 0);
}

TEST_P(EveryKindTest, AnEmptyMessageIsNotEnough) {
  const LoadedPipeline loaded = load_pipeline(
      "apiVersion: moe/v1\nkind: Pipeline\nname: p\nstages: [{name: s, " + GetParam() + ": {}}]\n", "a.yaml", {}, {});
  ASSERT_FALSE(loaded.problems.empty());
  for (const Problem& problem : loaded.problems) EXPECT_TRUE(problem.path.starts_with("stages.s." + GetParam() + "."));
}

TEST(KindsTest, EveryMeasureIsOfAKindAndOfFieldsThatItReads) {
  for (const Measure& measure : measures()) {
    SCOPED_TRACE(measure.kind + "." + measure.name);
    const JobKind* kind = kind_named(measure.kind);
    ASSERT_NE(kind, nullptr);
    std::vector<std::string> fields = kind->data;
    EXPECT_TRUE(measure.domains.empty() || std::count(fields.begin(), fields.end(), measure.domains) == 1);
    fields.insert(fields.end(), kind->models.begin(), kind->models.end());
    EXPECT_TRUE(measure.needs.empty() || std::count(fields.begin(), fields.end(), measure.needs) == 1);
  }
}

TEST(KindsTest, AConversionMeasuresThePartsThatItConverts) {
  v1::Stage both;
  both.mutable_convert()->set_input("dense");
  both.mutable_convert()->mutable_calibration()->add_data()->set_path("c.jsonl");
  v1::Stage attention = both;
  attention.mutable_convert()->mutable_attention();
  both.mutable_convert()->mutable_ffn();
  const std::vector<std::string> ffn_alone = metrics_of(both);
  both.mutable_convert()->mutable_attention();
  const auto of_ffn = ::testing::IsSupersetOf({"mean_scale", "step0_ffn_error", "step0_dead_expert_fraction"}),
             of_attention = ::testing::IsSupersetOf(
                 {"attention_mean_scale", "step0_attention_error", "step0_attention_visible_keys"});
  EXPECT_THAT(ffn_alone, of_ffn);
  EXPECT_THAT(ffn_alone, ::testing::Not(::testing::Contains("step0_attention_error")));
  EXPECT_THAT(metrics_of(both), ::testing::AllOf(of_ffn, of_attention));
  EXPECT_THAT(metrics_of(attention), of_attention);
  EXPECT_THAT(metrics_of(attention), ::testing::Not(::testing::Contains("step0_ffn_error")));
  EXPECT_THAT(metrics_of(attention), ::testing::Contains("step0_loss"));
}

TEST_P(EveryKindTest, MeasuresOnDataThatItReads) {
  for (const std::string& field : kind().measured_data) EXPECT_THAT(kind().data, ::testing::Contains(field));
}

TEST(KindsTest, EvaluationFilesAreThoseThatAnyStageMeasuresOnEachOnce) {
  const LoadedPipeline loaded = load_pipeline(R"(apiVersion: moe/v1
kind: Pipeline
name: p
inputs: {dense: {path: ./dense}}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: m, experts: 8, top_k: 2}, calibration: {data: [{path: c.jsonl}]}}}
  - {name: train, train: {input: convert.model, steps: 10, data: [{path: a.jsonl}], validation: [{path: v.jsonl}]}}
  - gate: {name: fine, metric: train.validation_loss, op: "<", value: 3}
  - {name: evaluate, evaluate: {input: train.model, data: [{path: e.jsonl}, {path: v.jsonl}]}}
)",
                                              "a.yaml", {}, {});
  EXPECT_THAT(evaluation_files(loaded.spec), ElementsAre("v.jsonl", "e.jsonl"));
}

}  // namespace
}  // namespace moe
