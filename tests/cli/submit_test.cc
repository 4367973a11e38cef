// submit: what is sent, and how problems come back to the lines of the file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using grpc::Status;
using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kGood[] = R"(apiVersion: moe/v1
kind: Pipeline
name: tiny
inputs: {dense: {path: models/dense}}
defaults: {gang: {ranks: 2}}
stages:
  - name: convert
    convert:
      input: dense
      ffn:
        method: sequential
        experts: 4
        top_k: 2
      calibration: {data: [{path: data/c.jsonl}]}
  - name: stage1
    train:
      input: convert.model
      steps: 20
      data: [{path: /abs/t.jsonl}]
  - name: evaluate
    evaluate: {input: stage1.model, baseline: ./models/other, data: [{path: ../e.jsonl}]}
  - gate: {name: good, metric: evaluate.loss_ratio_to_baseline, op: "<=", value: 1.25}
)";

/// Every mistake in one file; lines 5, 12, 13, 18, 19.
constexpr char kBad[] = R"(apiVersion: moe/v1
kind: Pipeline
name: tiny
inputs: {dense: {path: models/dense}}
defaults: {gang: {rank: 2}}
stages:
  - name: convert
    convert:
      input: dense
      ffn:
        method: sequentiel
        experts: many
        top_k: 0
      calibration: {data: [{path: c.jsonl}]}
  - name: stage1
    train:
      input: convert.model
      step: 20
      data: []
)";

class SubmitTest : public ::testing::Test {
 protected:
  SubmitTest() {
    coordinator_.on_submit = [this](const v1::SubmitRequest& request, v1::SubmitResponse& response) {
      requests_.push_back(request);
      return answer_ ? answer_(request, response) : Status::OK;
    };
  }

  void write(const std::string& text) { std::ofstream(folder_ / "p.yaml") << text; }

  ProcessResult submit(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"submit", "p.yaml"});
    return run_moectl(coordinator_, arguments, folder_.path());
  }

  ScriptedCoordinator coordinator_;
  TempDir folder_;
  std::vector<v1::SubmitRequest> requests_;
  std::function<Status(const v1::SubmitRequest&, v1::SubmitResponse&)> answer_;
};

Status accept(const v1::SubmitRequest&, v1::SubmitResponse& response) {
  response.set_pipeline_id("tiny-abcd2345");
  response.add_warnings("stage stage1 needs 2 cpu ranks; no gang is connected");
  return Status::OK;
}

TEST_F(SubmitTest, TheIdAloneIsOnStandardOutput) {
  write(kGood);
  answer_ = accept;
  const ProcessResult result = submit({"--set", "stages.stage1.train.steps=7", "--request-id", "mine"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "tiny-abcd2345\n");
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("warning: stage stage1 needs 2 cpu ranks"), HasSubstr("moectl describe tiny-abcd2345")));
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].request_id(), "mine");
  EXPECT_EQ(requests_[0].user(), "ada");
  EXPECT_FALSE(requests_[0].validate_only());
  EXPECT_EQ(requests_[0].spec().stages(1).train().steps(), 7);
}

TEST_F(SubmitTest, PathsAreMadeAbsoluteAndNamesAreNot) {
  write(kGood);
  answer_ = accept;
  ASSERT_EQ(submit({}).exit_code, 0);
  const v1::PipelineSpec& spec = requests_.at(0).spec();
  const std::filesystem::path folder = std::filesystem::canonical(folder_.path());
  EXPECT_EQ(spec.inputs().at("dense").path(), (folder / "models/dense").string());
  EXPECT_EQ(spec.stages(0).convert().input(), "dense");
  EXPECT_EQ(spec.stages(0).convert().calibration().data(0).path(), (folder / "data/c.jsonl").string());
  EXPECT_EQ(spec.stages(1).train().input(), "convert.model");
  EXPECT_EQ(spec.stages(1).train().data(0).path(), "/abs/t.jsonl");
  EXPECT_EQ(spec.stages(2).evaluate().baseline(), (folder / "models/other").string());
  EXPECT_EQ(spec.stages(2).evaluate().data(0).path(), (folder.parent_path() / "e.jsonl").string());
}

TEST_F(SubmitTest, RequestIdsAreRandomAndKeptOverRetries) {
  write(kGood);
  int calls = 0;
  answer_ = [&](const v1::SubmitRequest& request, v1::SubmitResponse& response) {
    return ++calls % 2 == 1 ? Status(StatusCode::UNAVAILABLE, "starting") : accept(request, response);
  };
  EXPECT_EQ(submit({}).exit_code, 0);
  EXPECT_EQ(submit({}).exit_code, 0);
  ASSERT_EQ(requests_.size(), 4u);
  EXPECT_EQ(requests_[0].request_id(), requests_[1].request_id());
  EXPECT_EQ(requests_[2].request_id(), requests_[3].request_id());
  EXPECT_NE(requests_[0].request_id(), requests_[2].request_id());
  EXPECT_EQ(requests_[0].request_id().size(), 36u);
}

TEST_F(SubmitTest, LocalProblemsAreAllShownAndNothingIsSent) {
  write(kBad);
  const ProcessResult result = submit({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(requests_.empty());
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("p.yaml:5: defaults.gang.rank: unknown key (rank); did you mean 'ranks'?"),
                    HasSubstr("p.yaml:12: stages.convert.convert.ffn.experts"),
                    HasSubstr("p.yaml:13: stages.convert.convert.ffn.top_k"),
                    HasSubstr("p.yaml:18: stages.stage1.train.step: unknown key (step); did you mean 'steps'?"),
                    HasSubstr("stages.stage1.train.data")));
}

TEST_F(SubmitTest, ADryRunAddsTheCoordinatorsFindingsWithLinesAndWithoutEchoes) {
  write(kBad);
  answer_ = [](const v1::SubmitRequest& request, v1::SubmitResponse& response) {
    EXPECT_TRUE(request.validate_only());
    const auto add = [&](const std::string& path, const std::string& message) {
      v1::SpecProblem& problem = *response.add_problems();
      problem.set_path(path);
      problem.set_message(message);
    };
    add("stages.convert.convert.ffn.method", "unknown conversion method 'sequentiel'; did you mean 'sequential'?");
    // What it finds as well, and what it finds only since `experts: many` and `step` could not be read.
    add("stages.convert.convert.ffn.top_k", "must be at least 1 (0); it has no default");
    add("stages.convert.convert.ffn.experts", "must be at least 1 (0); it has no default");
    add("stages.stage1.train.steps", "must be at least 1 (0); it has no default");
    return Status::OK;
  };
  const ProcessResult result = submit({"--dry-run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].spec().stages(0).convert().ffn().method(), "sequentiel") << "what could be parsed is sent";
  EXPECT_THAT(result.err,
              HasSubstr("p.yaml:11: stages.convert.convert.ffn.method: unknown conversion method 'sequentiel'"));
  EXPECT_THAT(result.err, HasSubstr("p.yaml:5: defaults.gang.rank"));
  for (const char* path : {"convert.ffn.experts:", "convert.ffn.top_k:", "stage1.train.steps:"}) {
    const size_t first = result.err.find(path);
    EXPECT_TRUE(first == std::string::npos || result.err.find(path, first + 1) == std::string::npos) << path << "\n"
                                                                                                     << result.err;
  }
  std::cout << result.err;
}

TEST_F(SubmitTest, ADryRunOfAGoodFilePrintsThePlan) {
  write(kGood);
  answer_ = [](const v1::SubmitRequest& request, v1::SubmitResponse& response) {
    *response.mutable_effective() = request.spec();
    response.mutable_effective()->mutable_stages(1)->mutable_gang()->set_ranks(2);
    response.mutable_effective()->mutable_stages(1)->mutable_gang()->set_device("cpu");
    response.add_warnings("stage stage1 needs 2 cpu ranks; no gang is connected");
    return Status::OK;
  };
  const ProcessResult result = submit({"--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("valid, with 1 warning\n"),
                    ::testing::ContainsRegex("stage1 +train +2 +cpu +convert.model +20 steps"),
                    HasSubstr("sequential, 4 experts, top-2"), HasSubstr("evaluate.loss_ratio_to_baseline <= 1.25")));
  EXPECT_THAT(result.err, HasSubstr("warning: stage stage1 needs 2 cpu ranks"));
}

TEST_F(SubmitTest, ADryRunAsJson) {
  write(kBad);
  const ProcessResult result = submit({"--dry-run", "-o", "json"});
  EXPECT_EQ(result.exit_code, 2);
  const nlohmann::json answer = nlohmann::json::parse(result.out);
  ASSERT_GE(answer["problems"].size(), 5u);
  EXPECT_EQ(answer["problems"][0]["path"], "defaults.gang.rank");
  EXPECT_THAT(std::string(answer["problems"][0]["message"]), HasSubstr("p.yaml:5: unknown key"));
}

TEST_F(SubmitTest, ADryRunWithoutACoordinatorShowsWhatIsKnownHere) {
  coordinator_.stop();
  write(kBad);
  ProcessResult result = submit({"--dry-run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("p.yaml:5: defaults.gang.rank"), HasSubstr("p.yaml:18:"),
                                HasSubstr("no coordinator at"), HasSubstr("not checked: names of methods")));
  write(kGood);
  result = submit({"--dry-run"});
  EXPECT_EQ(result.exit_code, 5) << "it may still be wrong";
  EXPECT_THAT(result.out, Not(HasSubstr("valid")));
  EXPECT_THAT(result.err, Not(HasSubstr("warning:")));
  result = submit({"--dry-run", "--set", "defaults.gang.ranks=12"});
  EXPECT_THAT(result.err, HasSubstr("warning: stage stage1: gang.ranks: 4 of 12 ranks get no row"));
}

TEST_F(SubmitTest, ARefusalIsExplainedByLine) {
  write(kGood);
  answer_ = [](const v1::SubmitRequest& request, v1::SubmitResponse& response) {
    if (!request.validate_only())
      return Status(StatusCode::INVALID_ARGUMENT, "stages.convert.convert.ffn.method: unknown");
    v1::SpecProblem& problem = *response.add_problems();
    problem.set_path("stages.convert.convert.ffn.method");
    problem.set_message("unknown conversion method 'sequential'; known: none");
    return Status::OK;
  };
  const ProcessResult result = submit({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(
      result.err,
      HasSubstr("p.yaml:11: stages.convert.convert.ffn.method: unknown conversion method 'sequential'; known: none"));
}

TEST_F(SubmitTest, BrokenYamlIsOneProblemWithItsLine) {
  write("apiVersion: moe/v1\nkind: [Pipeline\nname: x\n");
  const ProcessResult result = submit({"--dry-run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("p.yaml:"));
  EXPECT_THAT(result.err, Not(HasSubstr("missing"))) << "what could not be read is not called missing";
}

TEST_F(SubmitTest, AFileInLatin1IsOneProblemWithItsLineAndNothingIsSent) {
  std::string text = kGood;
  text.insert(text.find("models/dense"), "caf\xE9/");
  write(text);
  const ProcessResult result = submit({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("p.yaml:4: not UTF-8 ('caf\\xE9/models/dense'); save the file as UTF-8"));
  EXPECT_TRUE(requests_.empty());
  EXPECT_EQ(submit({"--dry-run"}).exit_code, 2);
  EXPECT_EQ(requests_.size(), 1u) << "the coordinator checks the rest";
}

TEST_F(SubmitTest, AWorkingDirectoryThatIsNotUtf8IsNamed) {
  std::filesystem::create_directory(folder_ / "caf\xE9");
  std::ofstream(folder_ / "caf\xE9" / "p.yaml") << kGood;
  const ProcessResult result = run_moectl(coordinator_, {"submit", "p.yaml"}, (folder_ / "caf\xE9").string());
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("caf\\xE9/models/dense is not UTF-8"), HasSubstr("working directory")));
  EXPECT_TRUE(requests_.empty());
}

TEST_F(SubmitTest, AUserNameOfAnyBytesIsTaken) {
  write(kGood);
  answer_ = accept;
  const ProcessResult result =
      run_process({moectl_path(), "--coordinator", coordinator_.address(), "submit", (folder_ / "p.yaml").string()},
                  {{"USER", "ren\xE9"}});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].user(), "ren\\xE9");
}

TEST_F(SubmitTest, ARequestIdUsedForSomethingElseIsAConflict) {
  write(kGood);
  answer_ = [](const auto&, auto&) {
    return Status(StatusCode::ALREADY_EXISTS, "request id mine was used for another file");
  };
  const ProcessResult result = submit({"--request-id", "mine"});
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_THAT(result.err, HasSubstr("request id mine was used for another file"));
}

}  // namespace
}  // namespace moe::testing
