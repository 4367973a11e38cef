// What people read: tables of get, describe, metrics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using grpc::Status;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

v1::Job training_job() {
  v1::Job job;
  job.set_id("p-1-stage1");
  job.set_pipeline_id("p-1");
  job.mutable_stage()->set_name("stage1");
  job.set_kind("train");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_attempt(2);
  job.mutable_created()->set_seconds(1'764'000'000);
  job.set_gang_id("gang-b");
  job.mutable_progress()->set_phase("training");
  job.mutable_progress()->set_step(30);
  job.mutable_progress()->set_target(40);
  job.mutable_progress()->set_loss(1.75);
  v1::Attempt& first = *job.add_attempts();
  first.set_number(1);
  first.set_gang_id("gang-a");
  first.mutable_started()->set_seconds(1'764'000'010);
  first.mutable_ended()->set_seconds(1'764'000'110);
  first.set_outcome(v1::ATTEMPT_OUTCOME_LOST);
  first.set_last_step(17);
  first.set_message("lease expired");
  v1::Checkpoint& checkpoint = *job.add_checkpoints();
  checkpoint.set_step(16);
  checkpoint.set_attempt(1);
  checkpoint.set_bytes(3'420'000);
  checkpoint.set_path("p-1-stage1/checkpoints/s000016-t0001");
  (*job.mutable_metrics())["validation_loss.general"] = 1.8125;
  for (int layer = 0; layer < 2; ++layer) {
    v1::LayerLoad& load = *job.add_expert_load();
    for (const int64_t tokens : {100, 300, 100, layer == 0 ? 300 : 1500}) load.add_tokens(tokens);
  }
  job.add_expert_load();  // a dense layer
  v1::LayerLoad& last = *job.add_expert_load();
  for (int expert = 0; expert < 4; ++expert) last.add_tokens(500);
  v1::LayerLoad& attention = *job.add_attention_expert_load();
  for (const int64_t tokens : {100, 300, 260}) attention.add_tokens(tokens);
  return job;
}

Status metrics_of_training(const v1::QueryMetricsRequest& request, v1::QueryMetricsResponse& response) {
  for (int64_t step = request.after_step() + 1; step <= 40; ++step) {
    v1::MetricPoint& point = *response.add_points();
    point.set_step(step);
    (*point.mutable_values())["loss"] = 5 - 0.08125 * static_cast<double>(step);
    if (request.names_size() == 1) continue;
    (*point.mutable_values())["learning_rate"] = 1e-3;
    if (step % 10 == 0) (*point.mutable_values())["validation_loss"] = 5 - 0.08 * static_cast<double>(step);
  }
  return Status::OK;
}

Status three_events(const v1::WatchRequest& request, v1::WatchResponse& response) {
  for (int64_t revision = request.after_revision() + 1; revision <= 25; ++revision) {
    v1::Event& event = *response.add_events();
    event.set_revision(revision);
    event.set_job_id("p-1-stage1");
    event.set_type("CHECKPOINT");
    event.set_message("number " + std::to_string(revision) + ".");
  }
  response.set_revision(25);
  return Status::OK;
}

TEST(DescribeTest, AJobWithItsCurveAndLoad) {
  ScriptedCoordinator coordinator;
  coordinator.on_get_job = [](const auto&, v1::Job& job) {
    job = training_job();
    return Status::OK;
  };
  coordinator.on_query_metrics = metrics_of_training;
  coordinator.on_watch = three_events;
  const ProcessResult result = run_moectl(coordinator, {"describe", "p-1-stage1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::cout << result.out;
  EXPECT_THAT(
      result.out,
      AllOf(HasSubstr("State       RUNNING"), HasSubstr("training step 30/40  loss 1.7500"),
            ContainsRegex(
                "loss  █[▁▂▃▄▅▆▇█]+▁  4.919 -> 1.75, least 1.75, greatest 4.919, steps 1 to 40 .nats per token."),
            ContainsRegex(" 1 +gang-a +2025-11-24 16:00:10 UTC +1 min 40 s +LOST +0 +17 +lease expired"),
            ContainsRegex("16 +1 +3.42 MB +- +p-1-stage1/checkpoints/s000016-t0001"),
            ContainsRegex("validation_loss.general +1.812 +nats per token")));
  // Two layers: even is 200 and 500 tokens an expert.
  EXPECT_THAT(result.out, ContainsRegex("0 +0.50 +1.50 +▁█▁█\n"));
  EXPECT_THAT(result.out, ContainsRegex("\n +3 +1.00 +1.00 "));
  EXPECT_THAT(result.out, ::testing::Not(ContainsRegex("\n +2 +[0-9.]+ +[0-9.]+ "))) << "it is dense";
  EXPECT_THAT(result.out, ContainsRegex("1 +0.20 +3.00 +▁▂▁█\n"));
  EXPECT_THAT(result.out, ContainsRegex("Attention expert load, .*\n.*\n +0 +0.45 +1.36 "));
  EXPECT_THAT(result.out, AllOf(HasSubstr("number 25."), HasSubstr("number 16."), Not(HasSubstr("number 15."))));
  EXPECT_THAT(result.out, Not(HasSubstr("\033["))) << "no colours in a pipe";
}

TEST(DescribeTest, AWaitingJobSaysWhy) {
  ScriptedCoordinator coordinator;
  coordinator.on_get_job = [](const auto&, v1::Job& job) {
    job.set_id("p-1-stage1");
    job.set_kind("train");
    job.set_state(v1::JOB_STATE_QUEUED);
    job.set_pending_explanation("needs 4 ranks; gangs have 2");
    return Status::OK;
  };
  coordinator.on_query_metrics = [](const auto&, auto&) { return Status::OK; };
  coordinator.on_watch = [](const auto&, auto&) { return Status::OK; };
  const ProcessResult result = run_moectl(coordinator, {"describe", "p-1-stage1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("Pending     needs 4 ranks; gangs have 2"), Not(HasSubstr("Attempts"))));
}

TEST(DescribeTest, APipelineWithItsGates) {
  ScriptedCoordinator coordinator;
  coordinator.on_get_pipeline = [](const auto&, v1::Pipeline& pipeline) {
    pipeline.set_id("p-1");
    pipeline.set_phase("HELD");
    v1::Stage& spec = *pipeline.mutable_spec()->add_stages();
    spec.set_name("evaluate");
    spec.mutable_evaluate();
    for (const auto& [name, limit] : {std::pair{"first", 3.0}, std::pair{"second", 1.25}}) {
      v1::GateSpec& gate = *pipeline.mutable_spec()->add_stages()->mutable_gate();
      gate.set_name(name);
      gate.set_metric("evaluate.loss_ratio_to_baseline");
      gate.set_op("<=");
      gate.set_value(limit);
    }
    v1::StageState& evaluate = *pipeline.add_stages();
    evaluate.set_name("evaluate");
    evaluate.set_job_id("p-1-evaluate");
    evaluate.set_job_state(v1::JOB_STATE_SUCCEEDED);
    evaluate.set_status("SUCCEEDED");
    (*evaluate.mutable_metrics())["loss_ratio_to_baseline"] = 1.4375;
    for (const auto& [name, status, message] :
         {std::tuple{"first", "PASSED", ""}, std::tuple{"second", "HELD", "1.4375 is not <= 1.25"}}) {
      v1::StageState& gate = *pipeline.add_stages();
      gate.set_name(name);
      gate.set_is_gate(true);
      gate.set_status(status);
      gate.set_message(message);
    }
    return Status::OK;
  };
  coordinator.on_watch = three_events;
  const ProcessResult result = run_moectl(coordinator, {"describe", "p"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::cout << result.out;
  EXPECT_THAT(result.out, AllOf(ContainsRegex("evaluate +evaluate +SUCCEEDED +SUCCEEDED"),
                                ContainsRegex("first +gate +PASSED +evaluate.loss_ratio_to_baseline 1.43[78] <= 3"),
                                ContainsRegex("second +gate +HELD +1.4375 is not <= 1.25"),
                                HasSubstr("moectl approve p-1 --gate second")));
}

TEST(DescribeTest, WhatHasEndedWaitsForNoApproval) {
  ScriptedCoordinator coordinator;
  coordinator.on_get_pipeline = [](const auto&, v1::Pipeline& pipeline) {
    pipeline.set_id("p-1");
    pipeline.set_phase("CANCELED");
    v1::StageState& gate = *pipeline.add_stages();
    gate.set_name("sane");
    gate.set_is_gate(true);
    gate.set_status("HELD");
    gate.set_message("1.5 is not <= 1.25");
    return Status::OK;
  };
  coordinator.on_watch = [](const auto&, auto&) { return Status::OK; };
  const ProcessResult result = run_moectl(coordinator, {"describe", "p-1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("1.5 is not <= 1.25"), Not(HasSubstr("moectl approve"))));
}

TEST(DescribeTest, AnUnknownIdIsThreeAndSaysWhereToLook) {
  ScriptedCoordinator coordinator;
  const ProcessResult result = run_moectl(coordinator, {"describe", "nothing"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(
      result.err,
      "moectl: no pipeline and no job has the id 'nothing' or one that begins with it; `moectl get pipelines` and "
      "`moectl get jobs` list them\n");
}

TEST(MetricsTest, TableCsvAndPlot) {
  ScriptedCoordinator coordinator;
  coordinator.on_query_metrics = metrics_of_training;
  const ProcessResult csv = run_moectl(coordinator, {"metrics", "p-1-stage1", "--csv"});
  ASSERT_EQ(csv.exit_code, 0) << csv.err;
  std::istringstream lines(csv.out);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "step,loss,learning_rate,validation_loss");
  int rows = 0;
  while (std::getline(lines, line)) {
    std::istringstream cells(line);
    std::string step, loss, rate, validation;
    std::getline(cells, step, ',');
    std::getline(cells, loss, ',');
    std::getline(cells, rate, ',');
    std::getline(cells, validation, ',');
    EXPECT_EQ(std::stoi(step), ++rows);
    EXPECT_EQ(std::stod(loss), 5 - 0.08125 * rows) << "all digits";
    EXPECT_EQ(std::stod(rate), 1e-3);
    EXPECT_EQ(validation.empty(), rows % 10 != 0) << line;
  }
  EXPECT_EQ(rows, 40);
  const ProcessResult table =
      run_moectl(coordinator, {"metrics", "p-1-stage1", "--name", "loss,validation_loss", "--after", "38"});
  EXPECT_THAT(table.out, AllOf(ContainsRegex("STEP +loss +validation_loss"), ContainsRegex("40 +1.75 +1.8\n"),
                               HasSubstr("loss, validation_loss: nats per token\n"), Not(ContainsRegex("38 +"))));
  const ProcessResult plot = run_moectl(coordinator, {"metrics", "p-1-stage1", "--plot"});
  EXPECT_THAT(plot.out, ContainsRegex("loss  █[▁▂▃▄▅▆▇█]+▁  4.919 -> 1.75"));
  EXPECT_EQ(std::count(plot.out.begin(), plot.out.end(), '\n'), 3);
}

TEST(MetricsTest, NothingReportedYetIsSaid) {
  ScriptedCoordinator coordinator;
  coordinator.on_query_metrics = [](const auto&, auto&) { return Status::OK; };
  const ProcessResult result = run_moectl(coordinator, {"metrics", "p-1-stage1", "--name", "loss"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("p-1-stage1 has reported no loss yet"));
}

TEST(GetTest, TablesOfEveryKind) {
  ScriptedCoordinator coordinator;
  v1::ListRequest seen;
  coordinator.on_list_pipelines = [&](const v1::ListRequest& request, v1::ListPipelinesResponse& response) {
    seen = request;
    v1::Pipeline& pipeline = *response.add_pipelines();
    pipeline.set_id("p-1");
    pipeline.set_phase("RUNNING");
    pipeline.set_user("ada");
    for (const char* status : {"SUCCEEDED", "SKIPPED", "RUNNING", "PENDING"}) {
      v1::StageState& stage = *pipeline.add_stages();
      stage.set_name(std::string("at-") + status);
      stage.set_status(status);
    }
    return Status::OK;
  };
  coordinator.on_list_jobs = [&](const v1::ListRequest& request, v1::ListJobsResponse& response) {
    seen = request;
    *response.add_jobs() = training_job();
    return Status::OK;
  };
  coordinator.on_list_gangs = [](const auto&, v1::ListGangsResponse& response) {
    for (const char* state : {"idle", "busy", "unheard", "lost", "quarantined"}) {
      v1::Gang& gang = *response.add_gangs();
      gang.set_id(std::string("gang-") + state);
      gang.set_state(state);
      if (state == std::string("quarantined")) gang.set_message("failed 2 jobs that others can run");
      gang.set_device("cpu");
      gang.add_ranks();
      gang.add_ranks();
    }
    return Status::OK;
  };
  coordinator.on_list_artifacts = [](const auto&, v1::ListArtifactsResponse& response) {
    v1::Artifact& artifact = *response.add_artifacts();
    artifact.set_id("p-1-convert/output-t0001");
    artifact.set_kind("model");
    artifact.set_digest("00ff");
    artifact.add_parents("/models/dense");
    return Status::OK;
  };
  EXPECT_THAT(run_moectl(coordinator, {"get", "pipelines", "--state", "running,held"}).out,
              ContainsRegex("p-1 +RUNNING +2/4 +at-RUNNING +ada"));
  EXPECT_THAT(seen.states(), ::testing::UnorderedElementsAre("RUNNING", "HELD"));
  EXPECT_THAT(run_moectl(coordinator, {"get", "jobs", "--pipeline", "p-1"}).out,
              ContainsRegex("p-1-stage1 +train +RUNNING +2 +training step 30/40  loss 1.7500"));
  EXPECT_EQ(seen.pipeline_id(), "p-1");
  EXPECT_THAT(run_moectl(coordinator, {"get", "artifacts"}).out,
              ContainsRegex("p-1-convert/output-t0001 +model +00ff +- +/models/dense"));
  const std::string gangs = run_moectl(coordinator, {"get", "gangs", "--state", "busy,lost"}).out;
  EXPECT_THAT(gangs, AllOf(ContainsRegex("gang-busy +busy +2 +cpu"), Not(HasSubstr("gang-quarantined")),
                           HasSubstr("gang-lost"), Not(HasSubstr("gang-idle"))));
  EXPECT_THAT(run_moectl(coordinator, {"get", "gangs", "--state", "quarantined"}).out,
              ContainsRegex("gang-quarantined +quarantined .*failed 2 jobs that others can run"));
}

/// On a terminal of 70 columns, as `script` makes one.
std::string on_terminal(const ScriptedCoordinator& coordinator, const std::string& arguments,
                        const std::string& no_color) {
  const std::string call = moectl_path() + " --coordinator " + coordinator.address() + " " + arguments;
  return run_process({"script", "-qec", "stty cols 70; " + call, "/dev/null"}, {{"NO_COLOR", no_color}}).out;
}

TEST(TerminalTest, ColoursAndWidthAreForTerminalsAlone) {
  if (run_process({"script", "--version"}).exit_code != 0) GTEST_SKIP() << "`script` is not installed";
  ScriptedCoordinator coordinator;
  coordinator.on_list_jobs = [](const auto&, v1::ListJobsResponse& response) {
    v1::Job& job = *response.add_jobs();
    job.set_id("a-rather-long-pipeline-name-abcd2345-evaluate-stage1");
    job.set_state(v1::JOB_STATE_FAILED);
    job.set_message("the message is much longer than what a small terminal has room for on a line");
    return Status::OK;
  };
  const std::string colored = on_terminal(coordinator, "get jobs", "");
  EXPECT_THAT(colored, HasSubstr("\033[31mFAILED\033[0m"));
  EXPECT_THAT(colored, AllOf(HasSubstr("a-rather-long-pipeline-name-abcd2345-evaluate-stage1"), HasSubstr("…"),
                             Not(HasSubstr("on a line"))))
      << "ids stay whole, the message gives way";
  EXPECT_THAT(on_terminal(coordinator, "get jobs", "1"), Not(HasSubstr("\033[")));
  const std::string piped = run_moectl(coordinator, {"get", "jobs"}).out;
  EXPECT_THAT(piped, AllOf(Not(HasSubstr("\033[")), HasSubstr("has room for on a line")));
}

}  // namespace
}  // namespace moe::testing
