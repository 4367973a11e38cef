#include "metrics/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "common/measures.h"
#include "metrics/exposition.h"
#include "metrics/promtool.h"

namespace moe {
namespace {

using ::testing::ElementsAreArray;
using testing::Exposition;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::parse_exposition;

const std::set<std::string> kEveryRank{
    "moe_build_info",         "moe_worker_info",      "moe_worker_step",    "moe_worker_last_step_timestamp_seconds",
    "moe_comm_seconds_total", "moe_comm_bytes_total", "moe_comm_ops_total", "moe_comm_inflight_seconds"};

const std::set<std::string> kLeader{"moe_expert_routed_tokens_total",
                                    "moe_router_load_max_ratio",
                                    "moe_router_load_min_ratio",
                                    "moe_router_load_cv",
                                    "moe_router_entropy_ratio",
                                    "moe_router_dead_experts",
                                    "moe_attention_router_load_max_ratio",
                                    "moe_attention_router_load_min_ratio",
                                    "moe_train_loss",
                                    "moe_train_grad_norm",
                                    "moe_train_step",
                                    "moe_train_target_steps",
                                    "moe_train_consumed_tokens",
                                    "moe_train_learning_rate",
                                    "moe_train_router_entropy",
                                    "moe_train_router_top_probability",
                                    "moe_train_dropped_tokens",
                                    "moe_train_attention_router_entropy",
                                    "moe_train_attention_router_top_probability",
                                    "moe_train_steps_total",
                                    "moe_train_tokens_total",
                                    "moe_train_nonfinite_steps_total",
                                    "moe_train_skipped_steps_total",
                                    "moe_eval_loss",
                                    "moe_step_duration_seconds",
                                    "moe_checkpoint_duration_seconds",
                                    "moe_checkpoint_bytes",
                                    "moe_checkpoint_failures_total"};

/// Of a conversion.
const std::set<std::string> kWork{"moe_convert_units_total", "moe_convert_units_target"};

StepRecord sample(int64_t step = 7) {
  StepRecord sample;
  sample.step = step;
  sample.steps = 200;
  sample.loss = 2.5;
  sample.total_loss = 2.515;
  sample.statistics = {
      {"balance_loss", 1.5}, {"router_entropy", 1.25},           {"router_top_probability", 0.5},
      {"dropped_tokens", 7}, {"attention_router_entropy", 0.75}, {"attention_router_top_probability", 0.25}};
  sample.gradient_norm = 0.75;
  sample.learning_rate = 2e-4;
  sample.tokens = 7168;
  sample.step_tokens = 1024;
  sample.seconds = 0.3;
  sample.expert_load = {{8, 4, 2, 2}, {4, 4, 4, 4}};
  sample.attention_expert_load = {{}, {6, 2}};
  return sample;
}

void feed_everything(WorkerMetrics& metrics) {
  metrics.build_info({"0.1.0", "abc123", "2.11.0", ""});
  metrics.worker_info("none", 1, 0);
  metrics.train_step(sample());
  metrics.result({{"validation_loss", 3.5}, {"validation_loss.books", 3.25}});
  metrics.checkpoint(0.7, "write", 1 << 20, true);
  metrics.comm("dispatch", 0.25, 4096);
  metrics.set_comm_inflight(1.5);
}

const std::string kJob = "job_id=\"tiny-stage1\",stage=\"stage1\"";

class WorkerMetricsTest : public ::testing::Test {
 protected:
  Exposition page() const { return parse_exposition(page_.text()); }

  MetricsPage page_;
  WorkerMetrics metrics_{page_, true};
};

TEST_F(WorkerMetricsTest, ExposesExactlyTheCatalogue) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  feed_everything(metrics_);
  std::set<std::string> all = kEveryRank;
  all.insert(kLeader.begin(), kLeader.end());
  EXPECT_THAT(page().names(), ElementsAreArray(all));
  // 2 info; step, timestamp, in flight; 3 of each of 4 ops; 2 layers x (5 + 4 experts); 2 of 1 layer's attention; 3
  // losses, 9 gauges, 1 learning rate and 4 counters of training; histograms of 14 bounds and, for 3 phases, of 12,
  // each with +Inf, sum and count; eval; 2 of checkpoints.
  EXPECT_EQ(page().count("moe_"), 2u + 3 + 3 * 4 + 2 * (5 + 4) + 2 + 3 + 9 + 1 + 4 + (14 + 3) + 3 * (12 + 3) + 1 + 2);
}

TEST_F(WorkerMetricsTest, HelpTellsTheUnitOfWhatTheTableMeasures) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  feed_everything(metrics_);
  EXPECT_THAT(page_.text(), HasSubstr("# HELP moe_train_consumed_tokens Tokens trained on since step 0, restored on "
                                      "resume. [tokens]\n"));
  EXPECT_THAT(page_.text(), HasSubstr("[nats per token] (component lm)"));
}

TEST_F(WorkerMetricsTest, EverySeriesOfAJobNamesJobAndStage) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  feed_everything(metrics_);
  for (const auto& [name, value] : page().samples) {
    if (name.starts_with("process_") || name.starts_with("moe_build_info") || name.starts_with("moe_worker_info"))
      continue;
    EXPECT_THAT(name, HasSubstr("job_id=\"tiny-stage1\""));
    EXPECT_THAT(name, HasSubstr("stage=\"stage1\""));
  }
}

TEST_F(WorkerMetricsTest, TellsTheStepAsItWas) {
  const double before = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  metrics_.train_step(sample(7));
  StepRecord next = sample(8);
  next.seconds = 5;
  metrics_.train_step(next);
  const Exposition text = page();
  const std::string job = "{" + kJob + "}";
  EXPECT_EQ(text.at("moe_worker_step" + job), 8);
  EXPECT_GE(text.at("moe_worker_last_step_timestamp_seconds" + job), before);
  EXPECT_LT(text.at("moe_worker_last_step_timestamp_seconds" + job), before + 60);
  EXPECT_EQ(text.at("moe_train_step" + job), 8);
  EXPECT_EQ(text.at("moe_train_target_steps" + job), 200);
  EXPECT_EQ(text.at("moe_train_consumed_tokens" + job), 7168);
  EXPECT_EQ(text.at("moe_train_grad_norm" + job), 0.75);
  EXPECT_EQ(text.at("moe_train_learning_rate{group=\"all\"," + kJob + "}"), 2e-4);
  EXPECT_EQ(text.at("moe_train_loss{component=\"lm\"," + kJob + "}"), 2.5);
  EXPECT_EQ(text.at("moe_train_loss{component=\"aux\"," + kJob + "}"), 1.5);
  EXPECT_DOUBLE_EQ(text.at("moe_train_loss{component=\"total\"," + kJob + "}"), 2.515);
  EXPECT_EQ(text.at("moe_train_steps_total" + job), 2);
  EXPECT_EQ(text.at("moe_train_tokens_total" + job), 2048);
  EXPECT_EQ(text.at("moe_train_nonfinite_steps_total" + job), 0);
  EXPECT_EQ(text.at("moe_train_skipped_steps_total" + job), 0);
  EXPECT_EQ(text.at("moe_checkpoint_failures_total" + job), 0);
  EXPECT_EQ(text.at("moe_step_duration_seconds_count" + job), 2);
  EXPECT_DOUBLE_EQ(text.at("moe_step_duration_seconds_sum" + job), 5.3);
  EXPECT_EQ(text.at("moe_step_duration_seconds_bucket{" + kJob + ",le=\"0.25\"}"), 0);
  EXPECT_EQ(text.at("moe_step_duration_seconds_bucket{" + kJob + ",le=\"0.5\"}"), 1);
  EXPECT_EQ(text.at("moe_step_duration_seconds_bucket{" + kJob + ",le=\"6\"}"), 2);
}

TEST_F(WorkerMetricsTest, CountsRoutedTokensAndTellsHowEvenTheyAre) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  metrics_.train_step(sample(1));
  metrics_.train_step(sample(2));
  const Exposition text = page();
  EXPECT_EQ(text.at("moe_expert_routed_tokens_total{expert=\"000\"," + kJob.substr(0, kJob.find(',')) +
                    ",layer=\"00\",stage=\"stage1\"}"),
            16);
  const std::string layer0 = "{job_id=\"tiny-stage1\",layer=\"00\",stage=\"stage1\"}";
  EXPECT_EQ(text.at("moe_router_load_max_ratio" + layer0), 2);
  EXPECT_EQ(text.at("moe_router_load_min_ratio" + layer0), 0.5);
  EXPECT_DOUBLE_EQ(text.at("moe_router_load_cv" + layer0), std::sqrt(6.0) / 4);
  EXPECT_DOUBLE_EQ(text.at("moe_router_entropy_ratio" + layer0), 0.875);
  EXPECT_EQ(text.at("moe_router_dead_experts" + layer0), 0);
  EXPECT_EQ(text.at("moe_router_entropy_ratio{job_id=\"tiny-stage1\",layer=\"01\",stage=\"stage1\"}"), 1);
}

TEST_F(WorkerMetricsTest, NonFiniteStepsAreCountedAndShown) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  StepRecord bad = sample();
  bad.loss = bad.total_loss = std::numeric_limits<double>::quiet_NaN();
  bad.skipped = true;
  metrics_.train_step(bad);
  StepRecord worse = sample();
  worse.gradient_norm = std::numeric_limits<double>::infinity();
  metrics_.train_step(worse);
  const Exposition text = page();
  EXPECT_EQ(text.at("moe_train_nonfinite_steps_total{" + kJob + "}"), 2);
  EXPECT_EQ(text.at("moe_train_skipped_steps_total{" + kJob + "}"), 1);
  EXPECT_TRUE(std::isinf(text.at("moe_train_grad_norm{" + kJob + "}")));
  metrics_.train_step(bad);
  EXPECT_TRUE(std::isnan(page().at("moe_train_loss{component=\"total\"," + kJob + "}")));
}

TEST_F(WorkerMetricsTest, LabelsSortAsNumbersAtEverySize) {
  metrics_.begin_job("wide", "s", "train");
  StepRecord wide = sample();
  wide.expert_load.assign(3, std::vector<int64_t>(1200, 1));
  metrics_.train_step(wide);
  EXPECT_TRUE(page().has("moe_expert_routed_tokens_total{expert=\"0007\",job_id=\"wide\",layer=\"02\",stage=\"s\"}"));
  EXPECT_TRUE(page().has("moe_expert_routed_tokens_total{expert=\"1199\",job_id=\"wide\",layer=\"02\",stage=\"s\"}"));
  metrics_.begin_job("deep", "s", "train");
  wide.expert_load.assign(101, {1, 2});
  metrics_.train_step(wide);
  EXPECT_TRUE(page().has("moe_expert_routed_tokens_total{expert=\"001\",job_id=\"deep\",layer=\"009\",stage=\"s\"}"));
  EXPECT_TRUE(page().has("moe_router_load_cv{job_id=\"deep\",layer=\"100\",stage=\"s\"}"));
  EXPECT_EQ(page().count("job_id=\"wide\""), 0u);
}

TEST_F(WorkerMetricsTest, TooManyExpertsAreSummedUpPerLayer) {
  metrics_.begin_job("huge", "s", "train");
  StepRecord huge = sample();
  huge.expert_load.assign(64, std::vector<int64_t>(64, 1));
  metrics_.train_step(huge);
  EXPECT_EQ(page().count("moe_expert_routed_tokens_total{"), 4096u);
  metrics_.begin_job("huger", "s", "train");
  huge.expert_load.assign(64, std::vector<int64_t>(65, 1));
  metrics_.train_step(huge);
  EXPECT_EQ(page().count("moe_expert_routed_tokens_total{"), 0u);
  EXPECT_EQ(page().count("moe_router_load_max_ratio{"), 64u);
}

TEST_F(WorkerMetricsTest, DenseModelsHaveNoRouterSeries) {
  metrics_.begin_job("dense", "s", "train");
  StepRecord dense = sample();
  dense.expert_load.clear();
  dense.attention_expert_load.clear();
  metrics_.train_step(dense);
  EXPECT_EQ(page().count("moe_router_"), 0u);
  EXPECT_EQ(page().count("moe_attention_router_"), 0u);
  dense.expert_load = {{}, {3, 1}};  // its first layer is dense
  metrics_.train_step(dense);
  EXPECT_EQ(page().count("moe_router_load_cv{"), 1u);
  EXPECT_TRUE(page().has("moe_router_load_cv{job_id=\"dense\",layer=\"01\",stage=\"s\"}"));
}

TEST_F(WorkerMetricsTest, AJobLeavesNothingBehind) {
  metrics_.begin_job("tiny-stage1", "stage1", "train");
  feed_everything(metrics_);
  metrics_.end_job();
  EXPECT_EQ(page().names(), (std::set<std::string>{"moe_build_info", "moe_worker_info"}));
  feed_everything(metrics_);  // late reports of a job that is over
  EXPECT_EQ(page().names(), (std::set<std::string>{"moe_build_info", "moe_worker_info"}));
  metrics_.end_job();
  metrics_.begin_job("next", "stage2", "train");
  metrics_.train_step(sample());
  EXPECT_EQ(page().at("moe_train_steps_total{job_id=\"next\",stage=\"stage2\"}"), 1);
  EXPECT_EQ(page().count("tiny-stage1"), 0u);
}

TEST_F(WorkerMetricsTest, BeginEndsTheJobBefore) {
  metrics_.begin_job("one", "s", "train");
  metrics_.train_step(sample());
  metrics_.begin_job("two", "s", "train");
  EXPECT_EQ(page().count("job_id=\"one\""), 0u);
  metrics_.begin_job("one", "s", "train");  // another attempt starts from zero
  metrics_.train_step(sample());
  EXPECT_EQ(page().at("moe_train_steps_total{job_id=\"one\",stage=\"s\"}"), 1);
}

// Prometheus sees an increase only between two numbers: what counts is there with 0 before it counts anything.
TEST_F(WorkerMetricsTest, EveryCounterIsThereWithZeroBeforeTheFirstEvent) {
  const auto counters = [this] {
    std::map<std::string, double> found;
    const Exposition text = page();
    for (const auto& [name, value] : text.samples) {
      const std::string family = name.substr(0, name.find('{'));
      const bool is_counter = family.ends_with("_total") || family.ends_with("_count") || family.ends_with("_bucket");
      if (is_counter && family.starts_with("moe_")) found[name] = value;
    }
    return found;
  };
  for (const auto& [kind, feed] :
       std::map<std::string, std::function<void()>>{{"train",
                                                     [this] {
                                                       metrics_.train_step(sample());
                                                       metrics_.checkpoint(0.7, "commit", 1, true);
                                                       metrics_.checkpoint(0.7, "write", 1, false);
                                                     }},
                                                    {"convert", [this] { metrics_.units(1, 12); }},
                                                    {"evaluate", [this] {
                                                       metrics_.result({{"loss.books", 3}});
                                                     }}}) {
    metrics_.begin_job("tiny-x", "x", kind);
    if (kind == "train") metrics_.expect_experts({4, 4});
    const std::map<std::string, double> before = counters();
    for (const auto& [name, value] : before) EXPECT_EQ(value, 0) << name;
    feed();
    for (const char* op : kCommOps) metrics_.comm(op, 0.25, 4096);
    const std::map<std::string, double> after = counters();
    for (const auto& [name, value] : after) EXPECT_TRUE(before.contains(name)) << name << " was born at " << value;
    EXPECT_GT(after.size(), kind == "train" ? 40u : 0u);
  }
}

TEST_F(WorkerMetricsTest, ExpectedExpertsHaveTheSeriesOfTheFirstStep) {
  metrics_.begin_job("tiny-x", "x", "train");
  metrics_.expect_experts({0, 3, 3});
  EXPECT_EQ(page().count("moe_expert_routed_tokens_total{"), 6u);
  EXPECT_EQ(page().at("moe_expert_routed_tokens_total{expert=\"002\",job_id=\"tiny-x\",layer=\"01\",stage=\"x\"}"), 0);
  StepRecord step = sample();
  step.expert_load = {{}, {1, 2, 3}, {4, 5, 6}};
  metrics_.train_step(step);
  EXPECT_EQ(page().count("moe_expert_routed_tokens_total{"), 6u);
  EXPECT_EQ(page().at("moe_expert_routed_tokens_total{expert=\"002\",job_id=\"tiny-x\",layer=\"02\",stage=\"x\"}"), 6);
}

TEST_F(WorkerMetricsTest, ConversionProgressIsAbsoluteAndNeverFalls) {
  metrics_.begin_job("c", "convert", "convert");
  metrics_.units(0, 12);
  EXPECT_EQ(page().at("moe_convert_units_total{job_id=\"c\",stage=\"convert\",unit=\"layer\"}"), 0);
  metrics_.units(5, 12);
  metrics_.units(4, 12);
  EXPECT_EQ(page().at("moe_convert_units_total{job_id=\"c\",stage=\"convert\",unit=\"layer\"}"), 5);
  EXPECT_EQ(page().at("moe_convert_units_target{job_id=\"c\",stage=\"convert\",unit=\"layer\"}"), 12);
  EXPECT_EQ(page().count("moe_convert_"), kWork.size());
}

TEST_F(WorkerMetricsTest, WorkIsCountedWhereTheTableHasAMeasureOfIt) {
  std::set<std::string> kinds{"a kind to come"};
  for (const Measure& measure : measures()) kinds.insert(measure.kind);
  for (const std::string& kind : kinds) {
    metrics_.begin_job("c", "s", kind);
    metrics_.units(2, 5);
    std::set<std::string> counted;
    for (const std::string& name : page().names()) {
      if (name.find("_units_") != std::string::npos) counted.insert(name);
    }
    std::set<std::string> expected;
    if (const Measure* work = work_measure(kind); work != nullptr && !work->series.empty())
      expected = {work->series + "_total", work->series + "_target"};
    EXPECT_EQ(counted, expected) << kind;
  }
}

TEST_F(WorkerMetricsTest, CheckpointsCountAsWrittenOrFailed) {
  metrics_.begin_job("c", "s", "train");
  const std::string job = "{job_id=\"c\",stage=\"s\"}";
  metrics_.checkpoint(0.2, "snapshot", 0, true);
  EXPECT_FALSE(page().has("moe_checkpoint_bytes" + job));
  metrics_.checkpoint(3, "write", 5000, true);
  metrics_.checkpoint(9, "write", 7000, false);
  const Exposition text = page();
  EXPECT_EQ(text.at("moe_checkpoint_bytes" + job), 5000);
  EXPECT_EQ(text.at("moe_checkpoint_failures_total" + job), 1);
  EXPECT_EQ(text.at("moe_checkpoint_duration_seconds_count{job_id=\"c\",phase=\"snapshot\",stage=\"s\"}"), 1);
  EXPECT_EQ(text.at("moe_checkpoint_duration_seconds_count{job_id=\"c\",phase=\"write\",stage=\"s\"}"), 1);
  EXPECT_EQ(text.at("moe_checkpoint_duration_seconds_bucket{job_id=\"c\",phase=\"write\",stage=\"s\",le=\"2\"}"), 0);
  EXPECT_EQ(text.at("moe_checkpoint_duration_seconds_bucket{job_id=\"c\",phase=\"write\",stage=\"s\",le=\"5\"}"), 1);
}

TEST_F(WorkerMetricsTest, CollectivesAddUpPerKind) {
  metrics_.begin_job("c", "s", "train");
  for (int i = 0; i < 3; ++i) metrics_.comm("combine", 0.5, 100);
  metrics_.comm("grad_sync", 2, 1000);
  metrics_.set_comm_inflight(4);
  metrics_.set_comm_inflight(0);
  const std::string combine = "{job_id=\"c\",op=\"combine\",stage=\"s\"}";
  EXPECT_EQ(page().at("moe_comm_seconds_total" + combine), 1.5);
  EXPECT_EQ(page().at("moe_comm_bytes_total" + combine), 300);
  EXPECT_EQ(page().at("moe_comm_ops_total" + combine), 3);
  EXPECT_EQ(page().at("moe_comm_ops_total{job_id=\"c\",op=\"grad_sync\",stage=\"s\"}"), 1);
  EXPECT_EQ(page().at("moe_comm_inflight_seconds{job_id=\"c\",stage=\"s\"}"), 0);
}

TEST_F(WorkerMetricsTest, InfoIsReplacedNotMultiplied) {
  metrics_.worker_info("none", 0, 0);
  metrics_.worker_info("none", 1, 3);
  EXPECT_EQ(page().count("moe_worker_info"), 1u);
  EXPECT_EQ(page().at("moe_worker_info{dp_rank=\"3\",ep_rank=\"1\",gpu=\"none\"}"), 1);
}

TEST(WorkerMetricsRankTest, OtherRanksExposeOnlyTheirOwn) {
  MetricsPage page;
  WorkerMetrics metrics(page, false);
  metrics.begin_job("tiny-stage1", "stage1", "train");
  feed_everything(metrics);
  EXPECT_THAT(parse_exposition(page.text()).names(), ElementsAreArray(kEveryRank));
}

TEST(WorkerMetricsLintTest, PromtoolFindsNothing) {
  if (!testing::has_promtool()) GTEST_SKIP() << "promtool is not installed (Debian package: prometheus)";
  MetricsPage page;
  WorkerMetrics metrics(page, true);
  metrics.begin_job("tiny-stage1", "quote\" back\\slash", "train");
  feed_everything(metrics);
  EXPECT_THAT(testing::promtool_complaints(page.text()), IsEmpty());
  EXPECT_THAT(testing::promtool_complaints("# TYPE Bad_name counter\nBad_name 1\n"), Not(IsEmpty()))
      << "the check checks";
}

}  // namespace
}  // namespace moe
