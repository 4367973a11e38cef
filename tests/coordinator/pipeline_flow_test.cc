#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/coordinator_fixture.h"

// A pipeline from submit to its end: stages, artifacts, gates, metrics, logs, what users see of it.
namespace moe {
namespace {

using ::testing::AllOf;
using testing::chain;
using testing::CoordinatorFixture;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::one_stage;
using ::testing::UnorderedElementsAre;

void run_stage(CoordinatorFixture& fixture, const std::string& job, const std::map<std::string, double>& metrics = {}) {
  const v1::Lease lease = fixture.must_acquire("g");
  ASSERT_EQ(lease.job_id(), job);
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  ASSERT_TRUE(fixture.complete("g", lease, v1::ATTEMPT_OUTCOME_SUCCEEDED, metrics).ok());
}

std::vector<std::string> event_types(CoordinatorFixture& fixture, const std::string& id) {
  v1::WatchRequest request;
  request.set_id(id);
  std::vector<std::string> types;
  const auto found_events = fixture.coordinator().watch(request);
  for (const v1::Event& event : found_events->events()) types.push_back(event.type());
  return types;
}

TEST(PipelineFlowTest, FromSubmitToSuccessThroughEveryStage) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(chain());
  EXPECT_TRUE(id.starts_with("chain-") && id.size() == 14) << id;
  EXPECT_EQ(fixture.story(id),
            "RUNNING: convert QUEUED, parity-eval BLOCKED, parity PENDING, stage1 BLOCKED, evaluate BLOCKED");
  EXPECT_THAT(fixture.job(id + "-stage1").pending_explanation(), HasSubstr("waits for stage 'convert' (READY)"));

  const v1::Lease lease = fixture.must_acquire("g");
  EXPECT_EQ(lease.attempt(), 1);
  EXPECT_EQ(lease.models().at("dense").path(), "./dense");
  EXPECT_FALSE(lease.models().at("dense").is_output());
  EXPECT_EQ(fixture.state(id + "-convert"), "ASSIGNED");
  ASSERT_TRUE(fixture.heartbeat("g", lease, "preparing").ok());
  EXPECT_EQ(fixture.state(id + "-convert"), "ASSIGNED");
  ASSERT_TRUE(fixture.heartbeat("g", lease, "converting").ok());
  EXPECT_EQ(fixture.state(id + "-convert"), "RUNNING");
  ASSERT_TRUE(fixture.complete("g", lease).ok());
  run_stage(fixture, id + "-parity-eval", {{"loss_ratio_to_baseline", 2}});
  EXPECT_EQ(fixture.story(id),
            "RUNNING: convert SUCCEEDED, parity-eval SUCCEEDED, parity PASSED, stage1 QUEUED, evaluate BLOCKED");

  const v1::Lease train = fixture.must_acquire("g");
  EXPECT_EQ(train.models().at("convert.model").path(), id + "-convert/output-t0001");
  EXPECT_TRUE(train.models().at("convert.model").is_output());
  EXPECT_EQ(train.models().at("convert.model").digest(), "d" + id + "-convert/output-t0001");
  ASSERT_TRUE(fixture.report("g", train, {1, 2, 3}).ok());
  ASSERT_TRUE(fixture.commit("g", train, 3).ok());
  ASSERT_TRUE(fixture.complete("g", train).ok());
  run_stage(fixture, id + "-evaluate");
  EXPECT_EQ(fixture.story(id),
            "SUCCEEDED: convert SUCCEEDED, parity-eval SUCCEEDED, parity PASSED, stage1 SUCCEEDED, evaluate SUCCEEDED");
  EXPECT_TRUE(fixture.pipeline(id).has_finished());
  EXPECT_FALSE(fixture.acquire("g"));

  v1::ListRequest list;
  list.set_pipeline_id(id);
  std::map<std::string, std::vector<std::string>> parents;
  const auto found_artifacts = fixture.coordinator().list_artifacts(list);
  for (const v1::Artifact& artifact : found_artifacts->artifacts()) {
    parents[artifact.kind() + " " + artifact.id()] = {artifact.parents().begin(), artifact.parents().end()};
  }
  EXPECT_THAT(parents["model " + id + "-convert/output-t0001"], ElementsAre("./dense"));
  EXPECT_THAT(parents["evaluation " + id + "-parity-eval/output-t0001"],
              ElementsAre(id + "-convert/output-t0001", "./dense"));
  EXPECT_THAT(parents["model " + id + "-stage1/output-t0001"], ElementsAre(id + "-convert/output-t0001"));
  EXPECT_EQ(parents.size(), 4u);
  EXPECT_THAT(event_types(fixture, id + "-stage1"), ElementsAre("QUEUED", "ASSIGNED", "CHECKPOINT", "SUCCEEDED"));
  EXPECT_EQ(fixture.observed().finished["SUCCEEDED"], 4);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

// Each model of a list is waited for, leased and a parent.
TEST(PipelineFlowTest, AMergeWaitsForAllItsModelsAndIsMadeOfThem) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  v1::PipelineSpec spec = testing::fork("merge");
  spec.mutable_stages()->DeleteSubrange(2, 1);
  v1::Stage& stage = *spec.add_stages();
  stage.set_name("merge");
  v1::ConvertSpec& convert = *stage.mutable_convert();
  convert.set_input("a.model");
  convert.mutable_ffn()->set_method("merge");
  convert.mutable_ffn()->set_top_k(1);
  for (const char* other : {"b.model", "./third"}) convert.mutable_ffn()->add_others(other);
  convert.mutable_scale()->set_mode("fixed");
  convert.mutable_scale()->set_value(1);
  const std::string id = fixture.submit(spec);
  run_stage(fixture, id + "-a");
  EXPECT_THAT(fixture.job(id + "-merge").pending_explanation(), HasSubstr("waits for stage 'b'"));
  run_stage(fixture, id + "-b");

  const v1::Lease lease = fixture.must_acquire("g");
  EXPECT_EQ(lease.models().at("a.model").path(), id + "-a/output-t0001");
  EXPECT_EQ(lease.models().at("b.model").path(), id + "-b/output-t0001");
  EXPECT_TRUE(lease.models().at("b.model").is_output());
  EXPECT_EQ(lease.stage().convert().ffn().experts(), 3);
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  ASSERT_TRUE(fixture.complete("g", lease).ok());
  v1::ListRequest list;
  list.set_pipeline_id(id);
  const auto found_artifacts = fixture.coordinator().list_artifacts(list);
  for (const v1::Artifact& artifact : found_artifacts->artifacts()) {
    if (artifact.id() != id + "-merge/output-t0001") continue;
    EXPECT_THAT(artifact.parents(), ElementsAre(id + "-a/output-t0001", id + "-b/output-t0001", "./third"));
    return;
  }
  FAIL() << "the merge left no artifact";
}

TEST(PipelineFlowTest, AHeldGateWaitsForAPerson) {
  for (const bool approve : {true, false}) {
    CoordinatorFixture fixture;
    fixture.register_gang("g");
    const std::string id = fixture.submit(chain());
    run_stage(fixture, id + "-convert");
    EXPECT_EQ(fixture.decide(id, true).status().code(), absl::StatusCode::kFailedPrecondition);
    run_stage(fixture, id + "-parity-eval", {{"loss_ratio_to_baseline", 4}});
    EXPECT_EQ(fixture.story(id),
              "HELD: convert SUCCEEDED, parity-eval SUCCEEDED, parity HELD, stage1 BLOCKED, evaluate BLOCKED");
    EXPECT_THAT(fixture.job(id + "-stage1").pending_explanation(),
                AllOf(HasSubstr("gate 'parity' holds"), HasSubstr("moectl approve " + id)));
    EXPECT_FALSE(fixture.acquire("g"));
    fixture.restart();
    EXPECT_EQ(fixture.decide(id, approve, "nobody").status().code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(fixture.decide(id, approve).ok());
    EXPECT_EQ(
        fixture.story(id),
        approve ? "RUNNING: convert SUCCEEDED, parity-eval SUCCEEDED, parity APPROVED, stage1 QUEUED, evaluate BLOCKED"
                : "FAILED: convert SUCCEEDED, parity-eval SUCCEEDED, parity FAILED, stage1 BLOCKED, evaluate BLOCKED");
    EXPECT_EQ(fixture.pipeline(id).stages(2).decided_by(), "ada: looked at it");
    EXPECT_EQ(fixture.job(id + "-stage1").reason(), approve ? "" : "UPSTREAM_FAILED");
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  }
}

TEST(PipelineFlowTest, APermanentErrorFailsThePipelineAndRetryGoesOn) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(chain());
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g"), v1::ATTEMPT_OUTCOME_PERMANENT, {}, "no such file").ok());
  EXPECT_EQ(fixture.story(id),
            "FAILED: convert FAILED, parity-eval BLOCKED, parity PENDING, stage1 BLOCKED, evaluate BLOCKED");
  EXPECT_THAT(fixture.pipeline(id).reason(), HasSubstr("stage 'convert' failed: no such file"));
  EXPECT_EQ(fixture.job(id + "-convert").reason(), "PERMANENT_ERROR");
  EXPECT_EQ(fixture.job(id + "-evaluate").reason(), "UPSTREAM_FAILED");
  ASSERT_TRUE(fixture.coordinator().retry(fixture.control(id)).ok());
  EXPECT_EQ(fixture.story(id),
            "RUNNING: convert QUEUED, parity-eval BLOCKED, parity PENDING, stage1 BLOCKED, evaluate BLOCKED");
  EXPECT_EQ(fixture.job(id + "-evaluate").reason(), "");
  EXPECT_FALSE(fixture.pipeline(id).has_finished());
  const v1::Lease again = fixture.must_acquire("g");
  EXPECT_EQ(again.attempt(), 2);
  ASSERT_TRUE(fixture.complete("g", again).ok());
  EXPECT_EQ(fixture.state(id + "-parity-eval"), "QUEUED");
  EXPECT_EQ(fixture.coordinator().retry(fixture.control(id)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(PipelineFlowTest, TwoFailedStagesAreRetriedTogetherOrOneByOne) {
  for (const bool together : {true, false}) {
    CoordinatorFixture fixture;
    fixture.register_gang("g1");
    fixture.register_gang("g2");
    const std::string id = fixture.submit(testing::fork());
    const v1::Lease a = fixture.must_acquire("g1"), b = fixture.must_acquire("g2");
    ASSERT_TRUE(fixture.complete("g1", a, v1::ATTEMPT_OUTCOME_PERMANENT, {}, "bad a").ok());
    ASSERT_TRUE(fixture.complete("g2", b, v1::ATTEMPT_OUTCOME_PERMANENT, {}, "bad b").ok());
    EXPECT_EQ(fixture.story(id), "FAILED: a FAILED, b FAILED, c BLOCKED");
    if (together) {
      ASSERT_TRUE(fixture.coordinator().retry(fixture.control(id)).ok());
      EXPECT_EQ(fixture.story(id), "RUNNING: a QUEUED, b QUEUED, c BLOCKED");
    } else {
      ASSERT_TRUE(fixture.coordinator().retry(fixture.control(id + "-a")).ok());
      ASSERT_TRUE(fixture.complete("g1", fixture.must_acquire("g1")).ok());
      ASSERT_TRUE(fixture.complete("g1", fixture.must_acquire("g1")).ok());
      EXPECT_EQ(fixture.story(id), "FAILED: a SUCCEEDED, b FAILED, c SUCCEEDED");
      ASSERT_TRUE(fixture.coordinator().retry(fixture.control(id + "-b")).ok());
      ASSERT_TRUE(fixture.complete("g1", fixture.must_acquire("g1")).ok());
      EXPECT_EQ(fixture.story(id), "SUCCEEDED: a SUCCEEDED, b SUCCEEDED, c SUCCEEDED");
    }
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  }
}

TEST(PipelineFlowTest, CurvesAreKeptThinnedOutAndReported) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  fixture.submit(one_stage());
  const v1::Lease lease = fixture.must_acquire("g");
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= 5000; ++step) steps.push_back(step);
  ASSERT_TRUE(fixture.report("g", lease, steps).ok());
  v1::QueryMetricsRequest query;
  query.set_job_id(lease.job_id());
  query.add_names("loss");
  auto curve = fixture.coordinator().query_metrics(query);
  EXPECT_EQ(curve->points_size(), 2500);
  EXPECT_EQ(curve->points(0).step(), 1);
  query.set_after_step(4000);
  curve = fixture.coordinator().query_metrics(query);
  EXPECT_EQ(curve->points(0).step(), 4001);
  EXPECT_DOUBLE_EQ(curve->points(0).values().at("loss"), 10.0 / 4002);
  query.clear_names();
  query.add_names("nothing");
  EXPECT_EQ(fixture.coordinator().query_metrics(query)->points_size(), 0);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(PipelineFlowTest, ListsInPagesNewestFirst) {
  CoordinatorFixture fixture;
  std::vector<std::string> ids;
  for (int i = 0; i < 25; ++i) {
    ids.insert(ids.begin(), fixture.submit(one_stage("n" + std::to_string(i))) + "-work");
    fixture.clock().advance(std::chrono::milliseconds(1));
  }
  std::vector<std::string> seen;
  v1::ListRequest request;
  request.set_page_size(10);
  int pages = 0;
  do {
    const auto page = fixture.coordinator().list_jobs(request);
    ASSERT_TRUE(page.ok());
    for (const v1::Job& job : page->jobs()) seen.push_back(job.id());
    request.set_page_token(page->next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(seen, ids);
  request.set_page_size(0);
  EXPECT_EQ(fixture.coordinator().list_jobs(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_page_size(10);
  request.set_page_token("nonsense");
  EXPECT_EQ(fixture.coordinator().list_jobs(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.clear_page_token();
  request.add_states("SUCCEEDED");
  EXPECT_EQ(fixture.coordinator().list_jobs(request)->jobs_size(), 0);
}

TEST(PipelineFlowTest, JobsOfAPipelineAreListedInTheOrderOfItsStages) {
  CoordinatorFixture fixture;
  const std::string old = fixture.submit(chain("b"));
  fixture.clock().advance(std::chrono::milliseconds(1));
  const std::string id = fixture.submit(chain("a"));
  const std::vector<std::string> expected{id + "-convert",  id + "-parity-eval",  id + "-stage1",  id + "-evaluate",
                                          old + "-convert", old + "-parity-eval", old + "-stage1", old + "-evaluate"};
  for (const int size : {1, 3, 50}) {
    std::vector<std::string> seen;
    v1::ListRequest request;
    request.set_page_size(size);
    do {
      const auto page = fixture.coordinator().list_jobs(request);
      ASSERT_TRUE(page.ok()) << page.status();
      for (const v1::Job& job : page->jobs()) seen.push_back(job.id());
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    EXPECT_EQ(seen, expected) << "pages of " << size;
  }
}

TEST(PipelineFlowTest, CheckpointsThatAreGoneAreNotShown) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g");
  for (const int64_t step : {2, 4, 6}) ASSERT_TRUE(fixture.commit("g", lease, step).ok());
  const auto steps = [&] {
    std::vector<int64_t> shown;
    const v1::Job described = fixture.job(job);
    for (const v1::Checkpoint& checkpoint : described.checkpoints()) shown.push_back(checkpoint.step());
    return shown;
  };
  EXPECT_THAT(steps(), ElementsAre(2, 4, 6));
  std::filesystem::remove_all(fixture.root() /
                              (job + "/checkpoints/s00000002-t0001"));  // as a gang that keeps two does
  EXPECT_THAT(steps(), ElementsAre(4, 6));
  const auto list = fixture.coordinator().list_jobs({});
  ASSERT_EQ(list->jobs(0).checkpoints_size(), 1) << "a list has the newest alone";
  EXPECT_EQ(list->jobs(0).checkpoints(0).step(), 6);
}

TEST(PipelineFlowTest, IdsMayBeShortenedAsLongAsTheyAreClear) {
  CoordinatorFixture fixture;
  const std::string one = fixture.submit(one_stage("alpha")), two = fixture.submit(one_stage("alps"));
  v1::GetRequest get;
  get.set_id("alpha");
  EXPECT_EQ(fixture.coordinator().get_pipeline(get)->id(), one);
  EXPECT_EQ(fixture.coordinator().get_job(get)->id(), one + "-work");
  get.set_id("alp");
  EXPECT_THAT(std::string(fixture.coordinator().get_pipeline(get).status().message()),
              AllOf(HasSubstr(one), HasSubstr(two), HasSubstr("write more")));
  get.set_id("beta");
  EXPECT_EQ(fixture.coordinator().get_job(get).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fixture.coordinator().cancel(fixture.control("beta")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fixture.coordinator().cancel(fixture.control("")).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PipelineFlowTest, WatchGivesEachEventOnce) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(one_stage());
  v1::WatchRequest request;
  request.set_id(id);
  auto answer = fixture.coordinator().watch(request);
  EXPECT_EQ(answer->events_size(), 2);  // SUBMITTED, QUEUED
  EXPECT_FALSE(answer->has_ended());
  request.set_after_revision(answer->revision());
  EXPECT_EQ(fixture.coordinator().watch(request)->events_size(), 0);
  run_stage(fixture, id + "-work");
  answer = fixture.coordinator().watch(request);
  std::vector<std::string> types;
  for (const v1::Event& event : answer->events()) types.push_back(event.type());
  EXPECT_THAT(types, ElementsAre("ASSIGNED", "RUNNING", "SUCCEEDED", "SUCCEEDED"));
  EXPECT_TRUE(answer->has_ended());
  EXPECT_EQ(answer->state(), "SUCCEEDED");
  EXPECT_EQ(answer->events(0).actor(), "gang g");
}

}  // namespace
}  // namespace moe
