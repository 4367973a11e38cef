#include "metrics/coordinator_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metrics/exposition.h"
#include "metrics/promtool.h"

namespace moe {
namespace {

using ::testing::ElementsAreArray;
using testing::Exposition;
using ::testing::IsEmpty;
using testing::parse_exposition;

const std::set<std::string> kAll{"moe_job_info",
                                 "moe_job_state",
                                 "moe_job_last_checkpoint_timestamp_seconds",
                                 "moe_job_last_checkpoint_step",
                                 "moe_job_restarts_total",
                                 "moe_jobs_finished_total",
                                 "moe_gang_last_heartbeat_timestamp_seconds",
                                 "moe_gangs",
                                 "moe_lease_expirations_total",
                                 "moe_lease_fencing_rejections_total",
                                 "moe_queue_jobs",
                                 "moe_queue_oldest_wait_seconds",
                                 "moe_gate_passed",
                                 "moe_rpc_requests_total",
                                 "moe_rpc_duration_seconds",
                                 "moe_store_commit_duration_seconds",
                                 "moe_store_bytes"};

CoordinatorSnapshot::Job job(const std::string& id) {
  return {id, "stage1", "train", "default", "ada", "tiny-abcd2345", 4, 1764000000.25, 40};
}

CoordinatorSnapshot snapshot() {
  CoordinatorSnapshot snapshot;
  snapshot.jobs = {job("a"), job("b")};
  snapshot.jobs[1].last_checkpoint_timestamp.reset();
  snapshot.jobs[1].last_checkpoint_step.reset();
  snapshot.gangs = {{"gang-1", "a", 1764000001.5, "busy"}, {"gang-2", "", 1764000002.5, "quarantined"}};
  snapshot.gates = {{"tiny-abcd2345", "parity-eval", "parity", false}};
  snapshot.queues = {{"default", {{"PENDING", 3}, {"RUNNING", 1}}, 12.5}};
  snapshot.store_bytes = {{"db", 8192}, {"wal", 4096}};
  return snapshot;
}

void feed_events(CoordinatorMetrics& metrics) {
  metrics.rpc("Heartbeat", "OK", 0.002);
  metrics.lease_expired("heartbeat_lost");
  metrics.fenced();
  metrics.restarted("a", "gang_lost");
  metrics.finished("train", "SUCCEEDED");
  metrics.store_commit(0.004);
}

class CoordinatorMetricsTest : public ::testing::Test {
 protected:
  Exposition page() const { return parse_exposition(page_.text()); }

  MetricsPage page_;
  CoordinatorMetrics metrics_{page_};
};

TEST_F(CoordinatorMetricsTest, ExposesExactlyTheCatalogue) {
  metrics_.set(snapshot());
  feed_events(metrics_);
  EXPECT_THAT(page().names(), ElementsAreArray(kAll));
  // jobs 2 x (info, state) + 2 of the one with a checkpoint; 2 gangs, 5 states of gangs; 1 gate; 2 states, a wait; 2
  // files; 5 counters; two histograms of 12 and 11 bounds, each with +Inf, sum and count; the RPC counter.
  EXPECT_EQ(page().count("moe_"), 2u * 2 + 2 + (2 + 5) + 1 + 3 + 2 + 4 + 1 + (12 + 3) + (11 + 3));
}

TEST_F(CoordinatorMetricsTest, TellsTheSnapshotAsItIs) {
  metrics_.set(snapshot());
  const Exposition text = page();
  EXPECT_EQ(
      text.at(
          "moe_job_info{job_id=\"a\",kind=\"train\",name=\"stage1\",pipeline_id=\"tiny-abcd2345\",queue=\"default\","
          "user=\"ada\"}"),
      1);
  EXPECT_EQ(text.at("moe_job_state{job_id=\"a\"}"), 4);
  EXPECT_EQ(text.at("moe_job_last_checkpoint_timestamp_seconds{job_id=\"a\"}"), 1764000000.25);
  EXPECT_EQ(text.at("moe_job_last_checkpoint_step{job_id=\"a\"}"), 40);
  EXPECT_FALSE(text.has("moe_job_last_checkpoint_step{job_id=\"b\"}"));
  EXPECT_EQ(text.at("moe_gang_last_heartbeat_timestamp_seconds{gang_id=\"gang-1\",job_id=\"a\"}"), 1764000001.5);
  EXPECT_EQ(text.at("moe_gangs{state=\"busy\"}"), 1);
  EXPECT_EQ(text.at("moe_gangs{state=\"quarantined\"}"), 1);
  EXPECT_EQ(text.at("moe_gangs{state=\"lost\"}"), 0);
  EXPECT_EQ(text.at("moe_gang_last_heartbeat_timestamp_seconds{gang_id=\"gang-2\",job_id=\"\"}"), 1764000002.5);
  EXPECT_EQ(text.at("moe_gate_passed{gate=\"parity\",pipeline_id=\"tiny-abcd2345\",stage=\"parity-eval\"}"), 0);
  EXPECT_EQ(text.at("moe_queue_jobs{queue=\"default\",state=\"PENDING\"}"), 3);
  EXPECT_EQ(text.at("moe_queue_oldest_wait_seconds{queue=\"default\"}"), 12.5);
  EXPECT_EQ(text.at("moe_store_bytes{file=\"wal\"}"), 4096);
}

TEST_F(CoordinatorMetricsTest, WhatVanishedFromTheSnapshotTakesItsSeriesAlong) {
  metrics_.set(snapshot());
  feed_events(metrics_);
  metrics_.restarted("b", "preempted");
  CoordinatorSnapshot later = snapshot();
  later.jobs.erase(later.jobs.begin());
  later.jobs[0].state = 7;
  later.gangs[0].job_id = "b";
  later.gangs.pop_back();
  later.gates[0].passed = true;
  metrics_.set(later);
  const Exposition text = page();
  EXPECT_EQ(text.count("job_id=\"a\""), 0u);
  EXPECT_EQ(text.count("gang-2"), 0u);
  EXPECT_EQ(text.at("moe_job_state{job_id=\"b\"}"), 7);
  EXPECT_EQ(text.at("moe_job_restarts_total{job_id=\"b\",reason=\"preempted\"}"), 1);
  EXPECT_EQ(text.count("moe_gang_last_heartbeat_timestamp_seconds{"), 1u);
  EXPECT_EQ(text.at("moe_gate_passed{gate=\"parity\",pipeline_id=\"tiny-abcd2345\",stage=\"parity-eval\"}"), 1);
  EXPECT_EQ(text.at("moe_jobs_finished_total{kind=\"train\",outcome=\"SUCCEEDED\"}"), 1);
  metrics_.set({});
  EXPECT_EQ(page().names(),
            (std::set<std::string>{"moe_gangs", "moe_jobs_finished_total", "moe_lease_expirations_total",
                                   "moe_lease_fencing_rejections_total", "moe_rpc_duration_seconds",
                                   "moe_rpc_requests_total", "moe_store_commit_duration_seconds"}));
}

TEST_F(CoordinatorMetricsTest, EventsAddUp) {
  EXPECT_EQ(page().at("moe_lease_fencing_rejections_total"), 0) << "there from the start";
  for (int i = 0; i < 3; ++i) feed_events(metrics_);
  metrics_.rpc("Heartbeat", "UNAVAILABLE", 5);
  const Exposition text = page();
  EXPECT_EQ(text.at("moe_lease_fencing_rejections_total"), 3);
  EXPECT_EQ(text.at("moe_lease_expirations_total{reason=\"heartbeat_lost\"}"), 3);
  EXPECT_EQ(text.at("moe_job_restarts_total{job_id=\"a\",reason=\"gang_lost\"}"), 3);
  EXPECT_EQ(text.at("moe_rpc_requests_total{code=\"OK\",method=\"Heartbeat\"}"), 3);
  EXPECT_EQ(text.at("moe_rpc_requests_total{code=\"UNAVAILABLE\",method=\"Heartbeat\"}"), 1);
  EXPECT_EQ(text.at("moe_rpc_duration_seconds_count{method=\"Heartbeat\"}"), 4);
  EXPECT_EQ(text.at("moe_rpc_duration_seconds_bucket{method=\"Heartbeat\",le=\"0.0025\"}"), 3);
  EXPECT_EQ(text.at("moe_rpc_duration_seconds_bucket{method=\"Heartbeat\",le=\"2.5\"}"), 3);
  EXPECT_EQ(text.at("moe_rpc_duration_seconds_bucket{method=\"Heartbeat\",le=\"10\"}"), 4);
  EXPECT_EQ(text.at("moe_store_commit_duration_seconds_bucket{le=\"0.005\"}"), 3);
}

TEST_F(CoordinatorMetricsTest, WhatIsKnownIsThereWithZeroBeforeTheFirstEvent) {
  MetricsPage page;
  CoordinatorMetrics metrics(page, {.methods = {{"Heartbeat", {"OK", "ABORTED"}}, {"Submit", {"OK"}}},
                                    .kinds = {"train"},
                                    .outcomes = {"SUCCEEDED", "FAILED"},
                                    .expiry_reasons = {"heartbeat_lost"},
                                    .restart_reasons = {"gang_lost", "failed"}});
  CoordinatorSnapshot jobs = snapshot();
  jobs.jobs[1].has_ended = true;
  metrics.set(jobs);
  const Exposition before = parse_exposition(page.text());
  for (const char* name :
       {"moe_rpc_requests_total{code=\"OK\",method=\"Heartbeat\"}",
        "moe_rpc_requests_total{code=\"ABORTED\",method=\"Heartbeat\"}",
        "moe_rpc_requests_total{code=\"OK\",method=\"Submit\"}", "moe_rpc_duration_seconds_count{method=\"Submit\"}",
        "moe_jobs_finished_total{kind=\"train\",outcome=\"FAILED\"}",
        "moe_jobs_finished_total{kind=\"train\",outcome=\"SUCCEEDED\"}",
        "moe_lease_expirations_total{reason=\"heartbeat_lost\"}", "moe_lease_fencing_rejections_total",
        "moe_job_restarts_total{job_id=\"a\",reason=\"gang_lost\"}",
        "moe_job_restarts_total{job_id=\"a\",reason=\"failed\"}", "moe_store_commit_duration_seconds_count"}) {
    EXPECT_TRUE(before.has(name) && before.at(name) == 0) << name;
  }
  EXPECT_FALSE(before.has("moe_job_restarts_total{job_id=\"b\",reason=\"failed\"}"))
      << "a job that has ended is not restarted";
  feed_events(metrics);
  const Exposition after = parse_exposition(page.text());
  for (const auto& [name, value] : after.samples) {
    if (!name.starts_with("moe_")) continue;
    EXPECT_TRUE(before.samples.contains(name)) << name << " was born at " << value;
  }
}

TEST_F(CoordinatorMetricsTest, AtMostFiveHundredJobsAreExposed) {
  CoordinatorSnapshot many;
  for (int i = 0; i < 600; ++i) many.jobs.push_back(job("job-" + std::to_string(i)));
  metrics_.set(many);
  EXPECT_EQ(page().count("moe_job_state{"), 500u);
  EXPECT_TRUE(page().has("moe_job_state{job_id=\"job-499\"}"));
}

TEST_F(CoordinatorMetricsTest, PromtoolFindsNothing) {
  if (!testing::has_promtool()) GTEST_SKIP() << "promtool is not installed (Debian package: prometheus)";
  metrics_.set(snapshot());
  feed_events(metrics_);
  EXPECT_THAT(testing::promtool_complaints(page_.text()), IsEmpty());
}

}  // namespace
}  // namespace moe
