#include "pipeline/yaml_to_proto.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/type.pb.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include <iostream>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/defaults.h"
#include "pipeline/yaml_tree.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Texts of all problems that a document has as a message of this type.
template <typename Message>
std::vector<std::string> problems_of(const std::string& yaml, Message& message) {
  Problems problems;
  SourceMap sources("a.yaml");
  const YamlNode document = parse_yaml(yaml, "a.yaml", false, problems);
  yaml_to_proto(document, message, sources, problems);
  std::vector<std::string> texts;
  for (const Problem& problem : problems) texts.push_back(problem.text());
  return texts;
}

std::vector<std::string> problems_of(const std::string& yaml) {
  v1::PipelineSpec spec;
  return problems_of(yaml, spec);
}

std::vector<std::string> problems_of_stage(const std::string& yaml) {
  v1::Stage stage;
  return problems_of(yaml, stage);
}

TEST(YamlToProtoTest, UnknownKeySuggestsTheNearest) {
  EXPECT_THAT(problems_of_stage("name: a\ntrain:\n  input: ./m\n  stepz: 3\n"),
              ElementsAre("a.yaml:4: train.stepz: unknown key (stepz); did you mean 'steps'?"));
}

TEST(YamlToProtoTest, UnknownKeyFarFromAllListsTheKnown) {
  EXPECT_THAT(problems_of("inputs: {dense: {directory_of_it: x}}"),
              ElementsAre("a.yaml:1: inputs.dense.directory_of_it: unknown key (directory_of_it); known: path"));
}

TEST(YamlToProtoTest, ApiVersionHasTwoSpellingsAndOnlyOneMayStand) {
  v1::PipelineSpec spec;
  EXPECT_THAT(problems_of("apiVersion: moe/v1", spec), IsEmpty());
  EXPECT_EQ(spec.api_version(), "moe/v1");
  EXPECT_THAT(problems_of("api_version: moe/v1\napiVersion: moe/v1"),
              ElementsAre("a.yaml:2: api_version: duplicate key (apiVersion); it is already set at a.yaml:1"));
}

TEST(YamlToProtoTest, DuplicateKeysInMessagesAndMaps) {
  EXPECT_THAT(problems_of("name: a\nkind: Job\nname: b\ninputs:\n  dense: {path: x}\n  dense: {path: y}\n"),
              ElementsAre("a.yaml:3: name: duplicate key (name); it is already set at a.yaml:1",
                          "a.yaml:6: inputs.dense: duplicate key (dense); it is already set at a.yaml:5"));
}

TEST(YamlToProtoTest, AnchorsAliasesTagsAndMergeKeysAreRefused) {
  EXPECT_THAT(
      problems_of("name: &n a\nkind: *n\napiVersion: !str moe/v1\ndefaults: &d\n  seed: 1\nstages: [{gang: {<<: *d}}]"),
      ElementsAre(HasSubstr("a.yaml:1: an anchor (&name)"), HasSubstr("a.yaml:2: an alias (*name)"),
                  HasSubstr("a.yaml:3: a tag (!str)"), HasSubstr("a.yaml:4: an anchor (&name)"),
                  HasSubstr("a.yaml:6: an alias"), HasSubstr("a.yaml:2: kind: no value"),
                  HasSubstr("a.yaml:6: stages.0.gang.<<: unknown key (<<)")));
}

TEST(YamlToProtoTest, WrongTypesNameTheValue) {
  EXPECT_THAT(
      problems_of_stage("train:\n  steps: many\n  learning_rate: fast\n  append_eos: yes\n  micro_steps: 1.5\n  "
                        "sequence_length: '64'\n"
                        "  warmup_steps: 1e2\n  data: x.jsonl\n  template: [a]\n  balance_loss: .nan\n  beta1:\n"),
      ElementsAre("a.yaml:2: train.steps: expected a whole number, found 'many'",
                  "a.yaml:3: train.learning_rate: expected a number, found 'fast'",
                  "a.yaml:4: train.append_eos: expected true or false, found 'yes'",
                  "a.yaml:5: train.micro_steps: expected a whole number, found '1.5'",
                  "a.yaml:6: train.sequence_length: expected a whole number, found '64' in quotes; remove the quotes",
                  "a.yaml:7: train.warmup_steps: expected a whole number, found '1e2'; write 100",
                  "a.yaml:8: train.data: expected a list, found 'x.jsonl'; write [x.jsonl]",
                  "a.yaml:9: train.template: expected text, found a list of 1",
                  "a.yaml:10: train.balance_loss: expected a number, found '.nan'",
                  "a.yaml:11: train.beta1: no value; write a number or remove the key"));
}

TEST(YamlToProtoTest, SectionsAndListItemsOfTheWrongKind) {
  EXPECT_THAT(problems_of("defaults: 3\ninputs: [a]\nstages:\n  - just text\n  - evaluate:\n"),
              ElementsAre("a.yaml:1: defaults: expected a section of keys, found '3'",
                          "a.yaml:2: inputs: expected a section of names, found a list of 1",
                          "a.yaml:4: stages.0: expected a section of keys, found 'just text'",
                          "a.yaml:5: stages.1.evaluate: no value; write a section of keys or remove the key"));
}

TEST(YamlToProtoTest, NumbersOutOfRange) {
  EXPECT_THAT(
      problems_of_stage("seed: -1\ngang: {ranks: 3000000000}\ntrain: {steps: 99999999999999999999}\n"),
      ElementsAre(
          HasSubstr("a.yaml:1: seed: out of range (-1); at least 0 and at most 18446744073709551615"),
          HasSubstr("a.yaml:2: gang.ranks: out of range (3000000000); at least -2147483648 and at most 2147483647"),
          HasSubstr("a.yaml:3: train.steps: out of range (99999999999999999999)")));
  v1::Stage stage;
  EXPECT_THAT(problems_of("seed: 18446744073709551615\ntrain: {steps: -9223372036854775808}", stage), IsEmpty());
  EXPECT_EQ(stage.seed(), UINT64_MAX);
  EXPECT_EQ(stage.train().steps(), INT64_MIN);
}

TEST(YamlToProtoTest, TwoMembersOfAOneof) {
  EXPECT_THAT(problems_of_stage("train:\n  input: ./a\nevaluate:\n  input: ./b\n"),
              ElementsAre("a.yaml:3: evaluate: 'evaluate' beside 'train' (a.yaml:1); only one of them may stand here"));
}

TEST(YamlToProtoTest, BrokenYamlHasItsLine) {
  const auto problems = problems_of("name: a\nkind: [Job\n");
  ASSERT_FALSE(problems.empty());
  EXPECT_THAT(problems[0], HasSubstr("a.yaml:3: not valid YAML: "));
  EXPECT_THAT(problems_of("name: a\n---\nname: b\n"),
              ElementsAre("a.yaml:2: a second YAML document; write one per file"));
}

// Deep nesting must end in an error, not in an exhausted stack.
TEST(YamlToProtoTest, BottomlessNestingIsAnError) {
  const auto problems = problems_of("name: " + std::string(100000, '['));
  ASSERT_FALSE(problems.empty());
  EXPECT_THAT(problems[0], HasSubstr("a.yaml:1: "));
}

// Well-known messages stand in for the types that our own schema does not use yet: bool map values, enums, floats,
// uint32.
TEST(YamlToProtoTest, EveryScalarTypeAndEnumsOfAnySchema) {
  google::protobuf::Field field;
  EXPECT_THAT(problems_of("kind: TYPE_BOOL\ncardinality: CARDINALITY_OPTIONAL\nnumber: 7\npacked: true\n", field),
              IsEmpty());
  EXPECT_EQ(field.kind(), google::protobuf::Field::TYPE_BOOL);
  EXPECT_THAT(problems_of("kind: TYPE_BOOLE\n", field),
              ElementsAre("a.yaml:1: kind: unknown value (TYPE_BOOLE); did you mean 'TYPE_BOOL'?"));
  google::protobuf::FloatValue number;
  EXPECT_THAT(problems_of("value: 0.5", number), IsEmpty());
  EXPECT_EQ(number.value(), 0.5f);
  google::protobuf::UInt32Value count;
  EXPECT_THAT(problems_of("value: 4294967295", count), IsEmpty());
  EXPECT_EQ(count.value(), 4294967295u);
  EXPECT_THAT(problems_of("value: 4294967296", count), ElementsAre(HasSubstr("out of range (4294967296)")));
  google::protobuf::Struct map;
  EXPECT_THAT(problems_of("fields: {a: {string_value: x}, b: {bool_value: true}}", map), IsEmpty());
  EXPECT_EQ(map.fields().at("a").string_value(), "x");
  EXPECT_TRUE(map.fields().at("b").bool_value());
}

// Writes a value for every field of a message type, each one different, as YAML; the members of a oneof are taken in
// turn by `choice`. Walks the descriptor only, so it covers fields that are added later.
class Writer {
 public:
  explicit Writer(int choice) : choice_(choice) {}

  std::string section(const google::protobuf::Descriptor& type) {
    std::string yaml = "{";
    for (int i = 0; i < type.field_count(); ++i) {
      const auto* field = type.field(i);
      if (const auto* oneof = field->real_containing_oneof();
          oneof != nullptr && oneof->field(choice_ % oneof->field_count()) != field)
        continue;
      yaml += (yaml.size() > 1 ? std::string(", ") : std::string())
                  .append(field->name())
                  .append(": ")
                  .append(value(*field));
      ++fields_;
    }
    return yaml.append("}");
  }
  int fields() const { return fields_; }

 private:
  std::string value(const google::protobuf::FieldDescriptor& field) {
    if (field.is_map()) return std::string("{first: ").append(single(*field.message_type()->map_value())).append("}");
    if (field.is_repeated())
      return std::string("[").append(single(field)).append(", ").append(single(field)).append("]");
    return single(field);
  }
  std::string single(const google::protobuf::FieldDescriptor& field) {
    using google::protobuf::FieldDescriptor;
    ++counter_;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE: return section(*field.message_type());
      case FieldDescriptor::CPPTYPE_STRING: return std::string("text").append(std::to_string(counter_));
      case FieldDescriptor::CPPTYPE_BOOL: return "true";
      case FieldDescriptor::CPPTYPE_DOUBLE: return std::to_string(counter_).append(".5e-3");
      default: return std::to_string(counter_);
    }
  }
  int choice_;
  int counter_ = 0;
  int fields_ = 0;
};

TEST(YamlToProtoTest, EveryFieldSurvivesYamlToProtoToJsonAndBack) {
  int fields = 0;
  for (int choice = 0; choice < 12; ++choice) {
    Writer writer(choice);
    const std::string yaml = writer.section(*v1::PipelineSpec::descriptor());
    fields += writer.fields();
    v1::PipelineSpec spec;
    ASSERT_THAT(problems_of(yaml, spec), IsEmpty()) << yaml;
    // JSON is a subset of YAML up to the way it writes 64-bit integers: as text.
    std::string json = to_json(spec);
    v1::PipelineSpec parsed;
    ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(json, &parsed).ok()) << json;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(spec, parsed));
    // Every key that was written is in the JSON, and every value.
    for (int i = 0; i < spec.GetDescriptor()->field_count(); ++i) {
      const auto* field = spec.GetDescriptor()->field(i);
      if (field->real_containing_oneof() != nullptr) continue;
      EXPECT_THAT(json, HasSubstr("\"" + field->name() + "\""));
    }
    size_t written = 0, found = 0;
    for (size_t at = yaml.find("text"); at != std::string::npos; at = yaml.find("text", at + 1)) {
      const std::string word = yaml.substr(at, yaml.find_first_of(",]} ", at) - at);
      ++written;
      found += json.find("\"" + word + "\"") != std::string::npos ? 1 : 0;
    }
    EXPECT_GT(written, 5u);
    EXPECT_EQ(found, written) << yaml << json;
  }
  std::cout << "fields written and read back: " << fields << "\n";
  EXPECT_GT(fields, 200);
}

}  // namespace
}  // namespace moe
