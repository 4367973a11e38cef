// Writers and scrapes at the same time: nothing is lost, no page is torn, no reference dangles (under the sanitizers
// too).
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "metrics/coordinator_metrics.h"
#include "metrics/exposition.h"
#include "metrics/http_client.h"
#include "metrics/worker_metrics.h"

namespace moe {
namespace {

using testing::Exposition;
using testing::parse_exposition;

constexpr int kThreads = 4;
constexpr int kRounds = 1000;

/// Runs work(thread, round) kRounds times on each of kThreads threads while the page is scraped; number of scrapes.
int hammer(const MetricsPage& page, const std::function<void(int, int)>& work) {
  std::atomic<int> running = kThreads;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < kRounds; ++round) work(thread, round);
      --running;
    });
  }
  int scrapes = 0;
  do {
    parse_exposition(page.text());
    ++scrapes;
  } while (running > 0);
  for (std::thread& thread : threads) thread.join();
  return scrapes;
}

StepRecord sample() {
  StepRecord sample;
  sample.loss = 1;
  sample.step_tokens = 10;
  sample.seconds = 0.5;
  sample.expert_load = {{1, 2, 3, 4}, {4, 3, 2, 1}};
  return sample;
}

TEST(MetricsConcurrencyTest, NoReportIsLost) {
  MetricsPage page;
  WorkerMetrics metrics(page, true);
  metrics.begin_job("j", "s", "train");
  const int scrapes = hammer(page, [&](int thread, int) {
    metrics.train_step(sample());
    metrics.comm(thread % 2 == 0 ? "dispatch" : "combine", 0.5, 2);
    metrics.checkpoint(1, "write", 1, thread != 0);
  });
  constexpr int kCalls = kThreads * kRounds;
  const Exposition text = parse_exposition(page.text());
  EXPECT_EQ(text.at("moe_train_steps_total{job_id=\"j\",stage=\"s\"}"), kCalls);
  EXPECT_EQ(text.at("moe_train_tokens_total{job_id=\"j\",stage=\"s\"}"), 10.0 * kCalls);
  EXPECT_EQ(text.at("moe_expert_routed_tokens_total{expert=\"003\",job_id=\"j\",layer=\"00\",stage=\"s\"}"),
            4.0 * kCalls);
  EXPECT_EQ(text.at("moe_comm_seconds_total{job_id=\"j\",op=\"combine\",stage=\"s\"}"), 0.5 * kCalls / 2);
  EXPECT_EQ(text.at("moe_step_duration_seconds_count{job_id=\"j\",stage=\"s\"}"), kCalls);
  EXPECT_EQ(text.at("moe_checkpoint_failures_total{job_id=\"j\",stage=\"s\"}"), kRounds);
  std::printf("%d reports by %d threads, %d scrapes\n", 3 * kCalls, kThreads, scrapes);
}

TEST(MetricsConcurrencyTest, JobsComeAndGoUnderReports) {
  MetricsPage page;
  WorkerMetrics metrics(page, true);
  hammer(page, [&](int thread, int round) {
    if (thread == 0 && round % 10 == 0) metrics.begin_job("job-" + std::to_string(round), "s", "train");
    if (thread == 0 && round % 10 == 7) metrics.end_job();
    if (thread != 0) metrics.train_step(sample());
    metrics.comm("dispatch", 0.1, 1);
    metrics.set_comm_inflight(round);
  });
  metrics.end_job();
  EXPECT_EQ(parse_exposition(page.text()).count("job_id="), 0u);
}

TEST(MetricsConcurrencyTest, SnapshotsAndEventsUnderScrapesByHttp) {
  MetricsPage page;
  CoordinatorMetrics metrics(page);
  HttpServer server("127.0.0.1", 0);
  server.get("/metrics", [&](const HttpRequest&) {
    CoordinatorSnapshot snapshot;
    for (const char* id : {"a", "b", "c"}) {
      snapshot.jobs.push_back({id, "name", "train", "default", "ada", "pipeline", 4, {}, {}});
    }
    metrics.set(snapshot);
    return page.response();
  });
  server.start();
  std::atomic<int> complete = 0;
  constexpr int kScrapes = 25;
  hammer(page, [&](int thread, int round) {
    metrics.rpc("Heartbeat", "OK", 0.001);
    metrics.restarted("a", "gang_lost");
    if (round % (kRounds / kScrapes) == 0) {
      const testing::HttpReply reply = testing::http_get(server.port(), "/metrics");
      const Exposition text = parse_exposition(reply.body);
      complete += reply.status == 200 && text.count("moe_job_state{") == 3 ? 1 : 0;
    }
    if (thread == 0) metrics.store_commit(0.001);
  });
  EXPECT_EQ(complete, kThreads * kScrapes);
  const Exposition text = parse_exposition(page.text());
  EXPECT_EQ(text.at("moe_rpc_requests_total{code=\"OK\",method=\"Heartbeat\"}"), kThreads * kRounds);
  EXPECT_EQ(text.at("moe_job_restarts_total{job_id=\"a\",reason=\"gang_lost\"}"), kThreads * kRounds);
  EXPECT_EQ(text.at("moe_store_commit_duration_seconds_count"), kRounds);
}

}  // namespace
}  // namespace moe
