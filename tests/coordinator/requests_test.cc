#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <set>
#include <thread>

#include "common/file_io.h"
#include "coordinator/coordinator_fixture.h"

// What is sent: checked as a whole, and done once however often it is repeated.
namespace moe {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::chain;
using testing::CoordinatorFixture;
using ::testing::HasSubstr;
using testing::one_stage;
using testing::spec_of;

std::vector<std::string> problems_of(CoordinatorFixture& fixture, const v1::PipelineSpec& spec) {
  v1::SubmitRequest request = fixture.submit_request(spec);
  request.set_validate_only(true);
  std::vector<std::string> paths;
  const auto found_problems = fixture.coordinator().submit(request);
  for (const v1::SpecProblem& problem : found_problems->problems()) paths.push_back(problem.path());
  return paths;
}

TEST(RequestsTest, ARepeatedSubmitIsTheSamePipelineAlsoAfterARestart) {
  CoordinatorFixture fixture;
  const v1::SubmitRequest request = fixture.submit_request(chain());
  const auto first = fixture.coordinator().submit(request);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->job_ids_size(), 4);
  EXPECT_EQ(fixture.coordinator().submit(request)->SerializeAsString(), first->SerializeAsString());
  fixture.restart();
  EXPECT_EQ(fixture.coordinator().submit(request)->pipeline_id(), first->pipeline_id());
  v1::SubmitRequest other = request;
  other.mutable_spec()->set_name("other");
  EXPECT_EQ(fixture.coordinator().submit(other).status().code(), absl::StatusCode::kAlreadyExists);
  v1::ControlRequest cancel = fixture.control(first->pipeline_id());
  cancel.set_request_id(request.request_id());
  EXPECT_EQ(fixture.coordinator().cancel(cancel).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fixture.coordinator().list_pipelines({})->pipelines_size(), 1);
  fixture.clock().advance(25h);  // a day later the id is free again
  fixture.submit(one_stage());
  EXPECT_EQ(fixture.coordinator().list_pipelines({})->pipelines_size(), 2);
  EXPECT_NE(fixture.coordinator().submit(request)->pipeline_id(), first->pipeline_id());
  fixture.restart();
  EXPECT_TRUE(fixture.coordinator().submit(request).ok());
}

TEST(RequestsTest, TheCoordinatorLooksForModelsAndData) {
  CoordinatorFixture fixture;
  const testing::TempDir elsewhere;
  const std::filesystem::path root = fixture.root();
  std::filesystem::create_directories(root / "models" / "dense");
  std::filesystem::create_directories(root / "models" / "empty");
  write_file_atomically(root / "models" / "dense" / "config.json", "{}");
  write_file_atomically(root / "a.jsonl", "");
  const auto ask = [&](const std::string& model, const std::string& data, bool validate_only) {
    v1::SubmitRequest request = fixture.submit_request(
        spec_of("apiVersion: moe/v1\nkind: Pipeline\nname: p\ninputs: {dense: {path: " + model +
                "}}\nstages:\n  - {name: work, train: {input: dense, steps: 1, data: [{path: " + data +
                "}], validation: [{path: " + data + "}]}}\n"));
    request.set_validate_only(validate_only);
    return fixture.coordinator().submit(request);
  };
  const std::string dense = (root / "models" / "dense").string(), data = (root / "a.jsonl").string();
  const auto good = ask(dense, data, true);
  EXPECT_EQ(good->problems_size(), 0);
  EXPECT_THAT(good->inputs_seen(), HasSubstr("looked for the 2 models and data files that it names: 2 are there"));
  EXPECT_EQ(good->warnings_size(), 1) << "no gang is connected";

  // Below the data root nobody will find what is not there.
  const auto missing = ask((root / "models" / "dnse").string(), (root / "b.jsonl").string(), true);
  ASSERT_EQ(missing->problems_size(), 2) << "what is named twice is missing once";
  EXPECT_EQ(missing->problems(0).path(), "inputs.dense.path");
  EXPECT_THAT(missing->problems(0).message(), AllOf(HasSubstr("there is no such folder"), HasSubstr("models/dnse"),
                                                    HasSubstr("the coordinator looked"), HasSubstr(root.string())));
  EXPECT_EQ(missing->problems(1).path(), "stages.work.train.data.0.path");
  EXPECT_THAT(missing->problems(1).message(), AllOf(HasSubstr("there is no such file"), HasSubstr("b.jsonl")));
  EXPECT_THAT(missing->inputs_seen(), HasSubstr("0 are there"));
  EXPECT_EQ(ask((root / "models" / "dnse").string(), data, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ask((root / "models" / "empty").string(), data, true)->problems(0).message(),
              HasSubstr("config.json is missing"));
  EXPECT_THAT(ask(dense, (root / "models").string(), true)->problems(0).message(), HasSubstr("it is not a file"));

  // Elsewhere a gang may see more: a warning, and the pipeline is taken.
  const auto outside = ask((elsewhere / "dense").string(), data, false);
  ASSERT_TRUE(outside.ok()) << outside.status();
  ASSERT_EQ(outside->warnings_size(), 2);
  EXPECT_THAT(outside->warnings(1),
              AllOf(HasSubstr("inputs.dense.path: there is no such folder"), HasSubstr("not below the data root"),
                    HasSubstr("gangs elsewhere may have it")));
  // A relative path is taken from a folder that the coordinator does not know.
  EXPECT_THAT(ask("./dense", data, true)->inputs_seen(),
              HasSubstr("1 is there, 1 with a relative path cannot be told"));
}

TEST(RequestsTest, TheOrderOfAMapIsNoDifference) {
  CoordinatorFixture fixture;
  v1::PipelineSpec spec = chain();
  for (int i = 0; i < 40; ++i) (*spec.mutable_inputs())["model-" + std::to_string(i)].set_path("./m");
  v1::SubmitRequest request = fixture.submit_request(spec);
  const std::string id = fixture.coordinator().submit(request)->pipeline_id();
  request.mutable_spec()->clear_inputs();
  for (int i = 39; i >= 0; --i)
    (*request.mutable_spec()->mutable_inputs())["model-" + std::to_string(i)].set_path("./m");
  (*request.mutable_spec()->mutable_inputs())["dense"].set_path("./dense");
  const auto again = fixture.coordinator().submit(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->pipeline_id(), id);
}

TEST(RequestsTest, AHundredThreadsOneRequestOnePipeline) {
  constexpr int kThreads = 100;
  CoordinatorFixture fixture;
  const v1::SubmitRequest request = fixture.submit_request(one_stage());
  std::vector<std::string> ids(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] { ids[i] = fixture.coordinator().submit(request)->pipeline_id(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1u);
  EXPECT_EQ(fixture.coordinator().list_jobs({})->jobs_size(), 1);
  std::cout << kThreads << " parallel submits with one request_id: " << fixture.coordinator().list_jobs({})->jobs_size()
            << " job\n";
}

TEST(RequestsTest, ARefusedRequestMayBeMendedUnderTheSameId) {
  CoordinatorFixture fixture;
  v1::SubmitRequest request = fixture.submit_request(one_stage());
  request.clear_request_id();
  EXPECT_THAT(std::string(fixture.coordinator().submit(request).status().message()), HasSubstr("request_id is empty"));
  request.set_request_id("mine");
  request.mutable_spec()->mutable_stages(0)->mutable_evaluate()->clear_data();
  EXPECT_EQ(fixture.coordinator().submit(request).status().code(), absl::StatusCode::kInvalidArgument);
  *request.mutable_spec() = one_stage();
  EXPECT_TRUE(fixture.coordinator().submit(request).ok());
}

TEST(RequestsTest, EveryProblemIsSaidAtOnce) {
  CoordinatorFixture fixture;
  v1::PipelineSpec spec = chain();
  spec.mutable_stages(1)->mutable_evaluate()->set_input("nowhere.model");
  spec.mutable_stages(3)->mutable_train()->set_steps(0);
  EXPECT_THAT(problems_of(fixture, spec),
              ::testing::ElementsAre("stages.parity-eval.evaluate.input", "stages.stage1.train.steps"));
  EXPECT_EQ(fixture.coordinator().list_pipelines({})->pipelines_size(), 0);
  const absl::Status refused = fixture.coordinator().submit(fixture.submit_request(spec)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("2 problems:"), HasSubstr("stages.stage1.train.steps: ")));
}

TEST(RequestsTest, ANameThatIsNoneIsRefusedSinceFoldersAreNamedAfterIt) {
  CoordinatorFixture fixture;
  for (const char* name : {"", "../../etc", "A", "a/b", "-a", "a b"}) {
    v1::PipelineSpec spec = one_stage();
    spec.set_name(name);
    EXPECT_THAT(problems_of(fixture, spec), ::testing::Contains("name")) << name;
  }
  v1::PipelineSpec empty = one_stage();
  empty.clear_stages();
  EXPECT_THAT(problems_of(fixture, empty), ::testing::ElementsAre("stages"));
  v1::PipelineSpec long_names = one_stage(std::string(63, 'n'));
  long_names.mutable_stages(0)->set_name(std::string(52, 's'));
  EXPECT_THAT(problems_of(fixture, long_names), ::testing::IsEmpty());
  const std::string id = fixture.submit(long_names);
  EXPECT_EQ(fixture.job(id).id().size(), 63u) << fixture.job(id).id();
  long_names.mutable_stages(0)->set_name(std::string(53, 's'));
  EXPECT_THAT(problems_of(fixture, long_names), ::testing::Not(::testing::IsEmpty()));
}

TEST(RequestsTest, AJobIsAPipelineOfOneStage) {
  CoordinatorFixture fixture;
  v1::PipelineSpec job =
      spec_of("apiVersion: moe/v1\nkind: Job\nname: alone\nevaluate: {input: ./dense, data: [{path: v.jsonl}]}\n");
  const std::string id = fixture.submit(job);
  EXPECT_EQ(fixture.job(id).id(), id + "-alone");
  EXPECT_EQ(fixture.job(id).kind(), "evaluate");
  job.mutable_stages(0)->clear_kind();
  EXPECT_THAT(problems_of(fixture, job), ::testing::ElementsAre("stages"));
  *job.mutable_stages(0) = one_stage().stages(0);
  *job.add_stages() = one_stage().stages(0);
  EXPECT_THAT(problems_of(fixture, job), ::testing::Contains("stages"));
}

TEST(RequestsTest, NamesAreCheckedAgainstWhatGangsKnow) {
  CoordinatorFixture fixture;
  EXPECT_THAT(problems_of(fixture, chain()), ::testing::IsEmpty());  // no gang yet: nothing is known
  v1::RegisterGangRequest gang;
  gang.set_root_id(CoordinatorFixture::kRootId);
  gang.mutable_gang()->set_id("g");
  gang.mutable_gang()->set_device("cpu");
  gang.mutable_gang()->add_ranks();
  (*gang.mutable_gang()->mutable_capabilities()->mutable_known())["methods"].add_names("sequential");
  ASSERT_TRUE(fixture.coordinator().register_gang(gang).ok());
  EXPECT_THAT(problems_of(fixture, chain()), ::testing::ElementsAre("stages.convert.convert.ffn.method"));
  gang.mutable_gang()->clear_ranks();
  EXPECT_EQ(fixture.coordinator().register_gang(gang).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RequestsTest, WhatNoGangCanRunIsAWarningAndThenAnExplanation) {
  CoordinatorFixture fixture;
  fixture.register_gang("g", 2);
  const auto response = fixture.coordinator().submit(fixture.submit_request(one_stage("wide", 4)));
  ASSERT_EQ(response->warnings_size(), 1);
  EXPECT_THAT(response->warnings(0), AllOf(HasSubstr("stage work needs a gang of 4 cpu ranks"),
                                           HasSubstr("connected gangs have 2 cpu ranks")));
  const auto many = fixture.coordinator().submit(fixture.submit_request(chain()));
  ASSERT_EQ(many->warnings_size(), 1);  // one sentence for all that need the same
  EXPECT_THAT(many->warnings(0), HasSubstr("stages convert, parity-eval, stage1, evaluate need a gang of 1 cpu rank; "
                                           "connected gangs have 2 cpu ranks: they"));
  EXPECT_FALSE(fixture.acquire("g"));
  EXPECT_THAT(fixture.job(response->job_ids(0)).pending_explanation(),
              AllOf(HasSubstr("needs a gang of 4 cpu ranks"), HasSubstr("--ranks 4")));
  fixture.register_gang("h", 4);
  EXPECT_THAT(fixture.job(response->job_ids(0)).pending_explanation(), HasSubstr("1 connected, 1 idle"));
  EXPECT_TRUE(fixture.acquire("h"));
}

TEST(RequestsTest, LogsAreReadInPieces) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  v1::ReadLogsRequest request;
  request.set_job_id(job);
  auto piece = fixture.coordinator().read_logs(request);
  EXPECT_EQ(piece->attempt(), 0);
  EXPECT_FALSE(piece->attempt_ended());
  const v1::Lease lease = fixture.must_acquire("g");
  const std::filesystem::path folder = fixture.root() / job / "attempts/0001/logs";
  make_directories(folder);
  write_file_atomically(folder / "gang.log", std::string(70'000, 'x'));
  piece = fixture.coordinator().read_logs(request);
  EXPECT_EQ(piece->data().size(), 65'536u);
  ASSERT_TRUE(fixture.complete("g", lease).ok());
  EXPECT_FALSE(fixture.coordinator().read_logs(request)->attempt_ended());  // there is more to read
  request.set_offset(piece->next_offset());
  piece = fixture.coordinator().read_logs(request);
  EXPECT_EQ(piece->next_offset(), 70'000);
  EXPECT_TRUE(piece->attempt_ended());
  EXPECT_EQ(piece->terminal_state(), "SUCCEEDED");
  request.set_offset(-5);
  EXPECT_EQ(fixture.coordinator().read_logs(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_offset(0);
  request.set_rank(9);
  EXPECT_EQ(fixture.coordinator().read_logs(request).status().code(), absl::StatusCode::kNotFound);
  request.set_attempt(7);
  EXPECT_THAT(std::string(fixture.coordinator().read_logs(request).status().message()),
              HasSubstr("no attempt 7; the newest is 1"));
}

}  // namespace
}  // namespace moe
