// The two halves of a job kind: its row, which everybody asks, and its runner, which links all that it needs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/measures.h"
#include "eval/eval_tasks.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/metrics.h"
#include "pipeline/spec.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "worker/job_monitor.h"
#include "worker/jobs.h"
#include "worker/known_names.h"
#include "worker/stage_inputs.h"

namespace moe {
namespace {

TEST(JobRunnersTest, EveryKindHasARunnerAndEveryRunnerAKind) {
  EXPECT_EQ(job_runners().names(), job_kinds().names());
  for (const std::string& name : job_runners().names()) {
    EXPECT_NE(job_runners().at(name).run, nullptr) << name;
    EXPECT_NE(job_runners().at(name).check_models, nullptr) << name;
  }
}

// Checks ask for lists by name, and what is not known is not checked: a list that is spelt otherwise on the two sides
// would let every name pass.
TEST(JobRunnersTest, EveryListOfNamesIsAskedForByARow) {
  const KnownNames known = known_names();
  std::map<std::string, int> refused;
  for (const auto& [list, names] : known) {
    EXPECT_FALSE(names.empty()) << list;
    // What is known of some names: asked beside another field, in tests of the kinds.
    if (list == "text_analyses" || list == "router_init_options" || list.starts_with("methods_with_")) continue;
    const LoadedPipeline loaded = load_pipeline(
        "apiVersion: moe/v1\nkind: Pipeline\nname: p\nstages:\n"
        "  - {name: c, convert: {input: ./m, ffn: {method: '?', experts: 4, top_k: 2, options: {'?': 1}}, router: "
        "{init: '?'}, scale: "
        "{mode: "
        "k}, calibration: {template: '?'}}}\n"
        "  - {name: t, train: {input: ./m, steps: 1, data: [{path: a}], template: '?'}}\n"
        "  - {name: e, evaluate: {input: ./m, data: [{path: a}], tasks: ['?'], template: '?'}}\n"
        "  - {name: x, export: {input: ./m, format: '?'}}\n"
        "  - {name: a, analyze: {input: ./m, analyses: ['?']}}\n",
        "a.yaml", {}, {{list, names}});
    refused[list] = static_cast<int>(loaded.problems.size());
    for (const Problem& problem : loaded.problems)
      EXPECT_THAT(problem.message, ::testing::ContainsRegex("unknown (value|option) \\(\\?\\)"));
  }
  const std::map<std::string, int> expected{{"analyses", 1}, {"export_formats", 1}, {"method_options", 1},
                                            {"methods", 1},  {"router_inits", 1},   {"tasks", 1},
                                            {"templates", 3}};
  EXPECT_EQ(refused, expected);
}

// Which analyses read text is asked of a list of their own.
TEST(JobRunnersTest, AnalysesOfTextAreRefusedWithoutText) {
  const LoadedPipeline loaded = load_pipeline(
      "apiVersion: moe/v1\nkind: Pipeline\nname: p\nstages:\n"
      "  - {name: a, analyze: {input: ./m, analyses: [weights, neuron_overlap, routing, routing, activation_scale]}}\n",
      "a.yaml", {}, known_names());
  std::vector<std::string> problems;
  for (const Problem& problem : loaded.problems) problems.push_back(problem.path + ": " + problem.message);
  EXPECT_THAT(problems,
              ::testing::ElementsAre(
                  "stages.a.analyze.analyses.2: routing looks at text; list at least one JSONL file: data: [{path: "
                  "FILE.jsonl}]",
                  "stages.a.analyze.analyses.3: routing stands twice; remove one",
                  "stages.a.analyze.analyses.3: routing looks at text; list at least one JSONL file: data: [{path: "
                  "FILE.jsonl}]",
                  "stages.a.analyze.analyses.4: activation_scale looks at text; list at least one JSONL file: data: "
                  "[{path: FILE.jsonl}]"));
}

TEST(JobRunnersTest, FreshRoutersNeedAnAnalysisOfText) {
  const LoadedPipeline loaded = load_pipeline(
      "apiVersion: moe/v1\nkind: Pipeline\nname: p\nstages:\n"
      "  - {name: a, analyze: {input: ./m, routers: fresh}}\n"
      "  - {name: b, analyze: {input: ./m, routers: fresh, analyses: [weights], data: [{path: x.jsonl}]}}\n"
      "  - {name: c, analyze: {input: ./m, routers: fresh, analyses: [weights, routing], data: [{path: x.jsonl}]}}\n"
      "  - {name: d, analyze: {input: ./m, routers: fresh, data: [{path: x.jsonl}]}}\n"
      "  - {name: e, analyze: {input: ./m, routers: new, data: [{path: x.jsonl}]}}\n",
      "a.yaml", {}, known_names());
  std::vector<std::string> problems;
  for (const Problem& problem : loaded.problems) problems.push_back(problem.path + ": " + problem.message);
  const std::string needless =
      "fresh routers route text, and no analysis looks at text; list data, or leave routers out";
  EXPECT_THAT(problems,
              ::testing::ElementsAre("stages.a.analyze.routers: " + needless, "stages.b.analyze.routers: " + needless,
                                     ::testing::HasSubstr("stages.e.analyze.routers: ")));
}

using nlohmann::json;

/// Keeps what it is told, and may ask to stop.
class TestMonitor final : public JobMonitor {
 public:
  TestMonitor(const Configuration& configuration, Communicator& world, bool is_to_stop)
      : JobMonitor(configuration, world), is_to_stop_(is_to_stop) {}

  bool should_stop() override { return is_to_stop_; }
  const std::vector<ProgressUpdate>& shown() const { return shown_; }

 private:
  void show(const ProgressUpdate& update) override { shown_.push_back(update); }

  const bool is_to_stop_;
  std::vector<ProgressUpdate> shown_;
};

/// A stage of each kind on tiny models, run as those do that run jobs: every model that its row names is a mixture, and
/// all data has two domains.
class EveryRunnerTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    set_log_level(LogLevel::kError);
    testing::write_tiny_model(folder_ / "moe", testing::tiny_moe_config(4, 2, 12), 1, at::kFloat);
    testing::write_tiny_model(folder_ / "dense", testing::tiny_config(), 1, at::kFloat);
    for (const char* domain : {"a", "b"}) testing::write_random_documents(file(domain), 20, 3, 30, 61, 1);
    spec_ = effective_spec(load_pipeline_or_throw(pipeline_text(), "p.yaml", {}, {}));
    configuration_ = StageInputs(spec_).configuration_of(stage());
  }

  std::string file(const std::string& domain) const { return folder_ / (domain + ".jsonl"); }
  const v1::Stage& stage() const { return spec_.stages(0); }
  static const JobKind& kind() { return job_kinds().at(GetParam()); }

  /// What a kind has to be told besides models and data.
  json settings() const {
    if (GetParam() == "convert")
      return {{"input", folder_ / "dense"},
              {"ffn", {{"method", "independent_random"}, {"experts", 4}, {"top_k", 2}, {"others", nullptr}}},
              {"calibration", {{"tokens", 200}}}};
    if (GetParam() == "train") return {{"steps", 2}, {"sequence_length", 24}, {"micro_batch_rows", 4}};
    if (GetParam() == "evaluate") return {{"tasks", eval_tasks().names()}};
    return json::object();
  }

  std::string pipeline_text() const {
    const auto place = [](std::string field) {
      std::replace(field.begin(), field.end(), '.', '/');
      return json::json_pointer("/" + field);
    };
    json section = json::object(), data = json::array();
    for (const char* domain : {"a", "b"}) data.push_back({{"path", file(domain)}, {"domain", domain}});
    for (const std::string& field : kind().models) section[place(field)] = folder_ / "moe";
    for (const std::string& field : kind().data) section[place(field)] = data;
    section.merge_patch(settings());
    return json{{"apiVersion", "moe/v1"},
                {"kind", "Pipeline"},
                {"name", "p"},
                {"stages", {{{"name", "s"}, {GetParam(), section}}}}}
        .dump();
  }

  struct Ran {
    std::optional<JobOutcome> outcome;
    std::vector<ProgressUpdate> shown;
  };
  /// On one rank or more, of which `stopper` asks to stop; what the last of them came to.
  Ran run(int ranks = 1, int stopper = -1) const {
    Ran ran;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      TestMonitor monitor(configuration_, world, world.rank() == stopper);
      const JobContext context{.stage = stage(),
                               .job_path = folder_ / "job",
                               .attempt_path = folder_ / "job/attempts/0001",
                               .output_path = output(),
                               .attempt = 1,
                               .configuration = configuration_,
                               .model_path = [](const std::string& reference) { return reference; },
                               .world = world,
                               .monitor = monitor,
                               .checkpoints = {}};
      std::optional<JobOutcome> outcome = run_job(context);
      const std::lock_guard<std::mutex> lock(mutex);
      ran = {std::move(outcome), monitor.shown()};
    });
    return ran;
  }
  std::filesystem::path output() const { return folder_ / "output"; }

  testing::TempDir folder_;
  v1::PipelineSpec spec_;
  Configuration configuration_;
};

INSTANTIATE_TEST_SUITE_P(All, EveryRunnerTest, ::testing::ValuesIn(job_runners().names()),
                         [](const auto& test) { return test.param; });

// Gates are checked against the table before anything runs.
TEST_P(EveryRunnerTest, LeavesTheMetricsThatTheTableSaysAfterItsUnitsOneByOne) {
  const Ran ran = run();
  ASSERT_TRUE(ran.outcome);
  std::vector<std::string> left;
  for (const auto& [name, value] : ran.outcome->metrics) left.push_back(name);
  // Those that a setting or the model decides on are not of these jobs.
  std::vector<std::string> listed = metrics_of(stage());
  std::erase_if(listed, [&](const std::string& name) {
    return std::any_of(measures().begin(), measures().end(), [&](const Measure& measure) {
      return measure.kind == GetParam() && measure.name == name && measure.is_optional;
    });
  });
  EXPECT_THAT(left, ::testing::UnorderedElementsAreArray(listed));
  EXPECT_TRUE(std::filesystem::exists(output()));

  const std::vector<ProgressUpdate>& shown = ran.shown;
  ASSERT_FALSE(shown.empty());
  for (size_t i = 0; i < shown.size(); ++i) {
    EXPECT_EQ(shown[i].stage, "s");
    EXPECT_GT(shown[i].step, i == 0 ? 0 : shown[i - 1].step);
    EXPECT_EQ(shown[i].phase + " " + shown[i].unit, shown[0].phase + " " + shown[0].unit);
    EXPECT_EQ(shown[i].steps, shown[0].steps);
  }
  EXPECT_EQ(shown.back().step, shown.back().steps);
  EXPECT_FALSE(shown[0].phase.empty() || shown[0].unit.empty());
}

TEST_P(EveryRunnerTest, OneRanksWishToStopEndsItOnAllAfterAUnit) {
  const Ran ran = run(/*ranks=*/2, /*stopper=*/1);
  EXPECT_FALSE(ran.outcome);
  EXPECT_EQ(ran.shown.size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(output()));
}

TEST_P(EveryRunnerTest, MakesNothingOfDataThatWasNotRecorded) {
  if (kind().data.empty()) GTEST_SKIP() << GetParam() << " reads no data";
  write_file_atomically(file("a"), "{\"ids\": [1, 2, 3, 4]}\n");
  EXPECT_THAT([&] { run(); }, ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("a.jsonl held ")));
  EXPECT_FALSE(std::filesystem::exists(output()));
}

}  // namespace
}  // namespace moe
