#include "pipeline/moved_fields.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>

#include "pipeline/configuration.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/problem_texts.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownFieldSet;
using google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::texts;

constexpr char kHead[] = "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n";

// A conversion as every key of it was written before there were sections.
constexpr char kFlat[] = R"(  - name: c
    convert:
      input: dense
      method: sequential
      experts: 8
      top_k: 2
      router_init: random_selection
      router_scaling: raw
      scale_mode: fixed
      output_scale: 2.5
      calibration: [{path: a.jsonl, weight: 3}, {path: b.jsonl}]
      calibration_tokens: 512
      topk_norm: raw
      preset: published
      dtype: float32
      template: chatml
)";
constexpr char kNested[] = R"(  - name: c
    convert:
      input: dense
      preset: published
      dtype: float32
      ffn: {method: sequential, experts: 8, top_k: 2}
      router: {init: random_selection, scaling: raw, topk_norm: raw}
      scale: {mode: fixed, value: 2.5}
      calibration: {data: [{path: a.jsonl, weight: 3}, {path: b.jsonl}], tokens: 512, template: chatml}
)";

v1::Stage nested() {
  return load_pipeline_or_throw(std::string(kHead) + kNested, "a.yaml", {}, {}).stages(0);
}

v1::Stage effective() {
  return effective_spec(load_pipeline_or_throw(std::string(kHead) + kNested, "a.yaml", {}, {})).stages(0);
}

TEST(MovedFieldsTest, AFileIsToldWhereEveryKeyWentAndNothingElse) {
  const LoadedPipeline loaded = load_pipeline(std::string(kHead) + kFlat, "a.yaml", {}, {});
  const std::string at = ": stages.c.convert.";
  EXPECT_THAT(texts(loaded),
              ElementsAre("a.yaml:9" + at + "method: 'method' is now 'ffn.method'; move it there",
                          "a.yaml:10" + at + "experts: 'experts' is now 'ffn.experts'; move it there",
                          "a.yaml:11" + at + "top_k: 'top_k' is now 'ffn.top_k'; move it there",
                          "a.yaml:12" + at + "router_init: 'router_init' is now 'router.init'; move it there",
                          "a.yaml:13" + at + "router_scaling: 'router_scaling' is now 'router.scaling'; move it there",
                          "a.yaml:14" + at + "scale_mode: 'scale_mode' is now 'scale.mode'; move it there",
                          "a.yaml:15" + at + "output_scale: 'output_scale' is now 'scale.value'; move it there",
                          "a.yaml:16" + at + "calibration: this list is now 'calibration.data'; move it there",
                          "a.yaml:17" + at +
                              "calibration_tokens: 'calibration_tokens' is now 'calibration.tokens'; move it there",
                          "a.yaml:18" + at + "topk_norm: 'topk_norm' is now 'router.topk_norm'; move it there",
                          "a.yaml:21" + at + "template: 'template' is now 'calibration.template'; move it there"));
  EXPECT_TRUE(MessageDifferencer::Equals(loaded.spec.stages(0), nested())) << loaded.spec.stages(0).DebugString();
}

// What is wrong besides is found in the same run, with the line that holds it.
TEST(MovedFieldsTest, ValuesAreCheckedWhereTheyBelong) {
  EXPECT_THAT(
      texts(load_pipeline(std::string(kHead) +
                              "  - {name: c, convert: {input: dense,\n    experts: none, ffn: {method: m, top_k: 0}, "
                              "router: {init: kaiming},\n    scale_mode: n_over_q}}\n",
                          "a.yaml", {}, {})),
      ElementsAre(
          "a.yaml:7: stages.c.convert.experts: 'experts' is now 'ffn.experts'; move it there",
          "a.yaml:8: stages.c.convert.scale_mode: 'scale_mode' is now 'scale.mode'; move it there",
          "a.yaml:7: stages.c.convert.ffn.experts: expected a whole number, found 'none'",
          "a.yaml:7: stages.c.convert.ffn.top_k: must be at least 1 (0); it has no default",
          HasSubstr("a.yaml:8: stages.c.convert.scale.mode: unknown value (n_over_q); did you mean 'n_over_k'?")));
}

TEST(MovedFieldsTest, FlagsAndJobsAreToldToo) {
  EXPECT_THAT(
      texts(load_pipeline(std::string(kHead) + kNested, "a.yaml",
                          {"stages.c.convert.experts=4", "stages.c.convert.calibration=[{path: c}]"}, {})),
      ElementsAre("--set stages.c.convert.experts=4: stages.c.convert.experts: 'experts' is now 'ffn.experts'; move it "
                  "there",
                  "--set stages.c.convert.calibration=[{path: c}]: stages.c.convert.calibration: this list is now "
                  "'calibration.data'; move it there"));
  EXPECT_THAT(
      texts(load_pipeline(std::string(kHead) + kNested, "a.yaml", {"stages.c.convert.calibration.0.path=c"}, {})),
      ElementsAre("--set stages.c.convert.calibration.0.path=c: stages.c.convert.calibration.0: items of this list "
                  "are those of 'calibration.data' now; write calibration.data.0"));
  EXPECT_THAT(
      texts(load_pipeline("apiVersion: moe/v1\nkind: Job\nname: a\nconvert:\n  input: ./m\n  ffn: {method: m, experts: "
                          "4}\n  top_k: 2\n  calibration: [{path: a}]\n",
                          "a.yaml", {}, {})),
      ElementsAre("a.yaml:7: convert.top_k: 'top_k' is now 'ffn.top_k'; move it there",
                  "a.yaml:8: convert.calibration: this list is now 'calibration.data'; move it there"));
}

TEST(MovedFieldsTest, WhatCannotBeASectionIsAProblemOfItsOwn) {
  const LoadedPipeline loaded = load_pipeline(
      std::string(kHead) + "  - {name: c, convert: {experts: 4, ffn: 3, calibration: x}}\n  - 7\n", "a.yaml", {}, {});
  EXPECT_THAT(texts(loaded), ::testing::IsSupersetOf(
                                 {"a.yaml:6: stages.c.convert.experts: 'experts' is now 'ffn.experts'; move it there",
                                  "a.yaml:6: stages.c.convert.ffn: expected a section of keys, found '3'",
                                  "a.yaml:6: stages.c.convert.calibration: expected a section of keys, found 'x'"}));
  EXPECT_THAT(texts(load_pipeline(std::string(kHead) + kNested, "a.yaml", {}, {})), IsEmpty());
}

/// The conversion as the schema before had it: JSON and bytes.
nlohmann::json flat_record() {
  nlohmann::json record = to_json(Configuration{effective(), {}});
  const nlohmann::json now = record["config"]["convert"];
  nlohmann::json& before = record["config"]["convert"];
  before = {{"input", now["input"]}, {"preset", now["preset"]}, {"dtype", now["dtype"]}};
  for (const MovedField& moved : job_kinds().at("convert").moved) {
    std::string pointer = "/" + moved.to;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    before[moved.from] = now.at(nlohmann::json::json_pointer(pointer));
  }
  record["inputs"] = {{"convert.input", "1"}, {"convert.calibration.1.path", "2"}};
  return record;
}

TEST(MovedFieldsTest, AnOlderRecordIsReadAsItWasMeant) {
  const std::optional<Configuration> read = configuration_from(flat_record());
  ASSERT_TRUE(read);
  EXPECT_TRUE(MessageDifferencer::Equals(read->stage, effective()));
  EXPECT_EQ(read->inputs,
            (std::map<std::string, std::string>{{"convert.input", "1"}, {"convert.calibration.data.1.path", "2"}}));
  // One of now is left alone.
  const nlohmann::json now = to_json(*read);
  EXPECT_EQ(configuration_from(now)->inputs, read->inputs);
  // What is no record of ours is none.
  nlohmann::json strange = flat_record();
  strange["config"]["convert"]["ffn"] = 3;
  EXPECT_FALSE(configuration_from(strange));
}

TEST(MovedFieldsTest, AnOlderMessageIsReadAsItWasMeant) {
  v1::Stage stage;
  stage.set_name("c");
  v1::ConvertSpec& convert = *stage.mutable_convert();
  convert.set_input("dense");
  convert.set_preset("published");
  convert.set_dtype("float32");
  UnknownFieldSet& before = *convert.GetReflection()->MutableUnknownFields(&convert);
  before.AddLengthDelimited(2, "sequential");
  before.AddVarint(3, 8);
  before.AddVarint(4, 2);
  before.AddLengthDelimited(5, "random_selection");
  before.AddLengthDelimited(6, "raw");
  before.AddLengthDelimited(7, "fixed");
  before.AddFixed64(8, std::bit_cast<uint64_t>(2.5));
  const v1::Stage expected = nested();
  for (const v1::DataSource& source : expected.convert().calibration().data())
    before.AddLengthDelimited(9, source.SerializeAsString());
  before.AddVarint(10, 512);
  before.AddLengthDelimited(11, "raw");
  before.AddLengthDelimited(14, "chatml");
  v1::Stage read;
  ASSERT_TRUE(read.ParseFromString(stage.SerializeAsString()));
  move_fields(read);
  EXPECT_TRUE(MessageDifferencer::Equals(read, expected)) << read.DebugString();
  move_fields(read);
  EXPECT_TRUE(MessageDifferencer::Equals(read, expected)) << "a message of now stays as it is";
}

// A number that was in use would be read as what it is now; a key that stands there still would not be found.
TEST(MovedFieldsTest, RowsNameWhatIsGoneAndWhereItIs) {
  std::set<std::pair<std::string, int>> numbers;
  for (const std::string& name : job_kinds().names()) {
    const Descriptor* message = v1::Stage::descriptor()->FindFieldByName(name)->message_type();
    for (const MovedField& moved : job_kinds().at(name).moved) {
      SCOPED_TRACE(name + "." + moved.from);
      EXPECT_TRUE(numbers.emplace(name, moved.number).second);
      EXPECT_TRUE(message->IsReservedNumber(moved.number));
      const FieldDescriptor* same_name = message->FindFieldByName(moved.from);
      EXPECT_TRUE(same_name == nullptr || (same_name->message_type() != nullptr && !same_name->is_repeated()));
      const Descriptor* at = message;
      const FieldDescriptor* field = nullptr;
      for (size_t start = 0, end = 0; end != std::string::npos; start = end + 1) {
        ASSERT_NE(at, nullptr);
        end = moved.to.find('.', start);
        field = at->FindFieldByName(moved.to.substr(start, end - start));
        ASSERT_NE(field, nullptr);
        at = field->message_type();
      }
    }
  }
  EXPECT_EQ(numbers.size(), 11U);
}

}  // namespace
}  // namespace moe
