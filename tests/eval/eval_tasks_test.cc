#include "eval/eval_tasks.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "common/measures.h"
#include "eval/evaluator.h"
#include "eval/scorer.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;

/// A tiny mixture on two domains, its dense model as baseline.
class EveryEvalTaskTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    testing::write_tiny_model(folder_ / "moe", testing::tiny_moe_config(4, 2, 12), 1, at::kFloat);
    testing::write_tiny_model(folder_ / "dense", testing::tiny_config(), 1, at::kFloat);
    for (const char* domain : {"a", "b"}) {
      testing::write_random_documents(folder_ / (std::string(domain) + ".jsonl"), 12, 3, 20, 61, 1);
      v1::DataSource* source = spec_.add_data();
      source->set_path(folder_ / (std::string(domain) + ".jsonl"));
      source->set_weight(1);
      source->set_domain(domain);
    }
    spec_.set_max_tokens(0);
    spec_.set_append_eos(true);
  }

  json run(const std::vector<std::string>& tasks, int ranks, int expert_parallel) {
    spec_.clear_tasks();
    for (const std::string& task : tasks) spec_.add_tasks(task);
    v1::GangSpec gang;
    gang.set_dtype("float64");
    gang.set_expert_parallel(expert_parallel);
    json result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      json mine = evaluate({.spec = spec_,
                            .gang = gang,
                            .model = folder_ / "moe",
                            .baseline = folder_ / "dense",
                            .monitor = unwatched()},
                           world);
      const std::lock_guard<std::mutex> lock(mutex);
      result = std::move(mine);
    });
    return result;
  }

  testing::TempDir folder_;
  v1::EvaluateSpec spec_;
};

TEST_P(EveryEvalTaskTest, MeasuresWhatTheTableSaysOnEveryLayout) {
  const json single = run({GetParam()}, 1, 1)["tasks"][GetParam()];
  std::set<std::string> measured, listed;
  for (const auto& [name, value] : single.items()) {
    if (value.is_number()) measured.insert(name);
  }
  for (const Measure& measure : result_measures("evaluate")) {
    if (measure.task == GetParam() && measure.has_whole && !measure.name.starts_with("baseline_"))
      listed.insert(measure.name);
  }
  EXPECT_EQ(measured, listed) << "the rows of common/measures.cc with this task";
  EXPECT_TRUE(measured.contains(eval_tasks().at(GetParam()).main_measure));
  EXPECT_EQ(single["domains"].size(), 2u);
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 2}, {4, 2}}) {
    const json spread = run({GetParam()}, ranks, expert_parallel)["tasks"][GetParam()];
    for (const std::string& name : measured)
      EXPECT_NEAR(spread[name].get<double>(), single[name].get<double>(), 1e-9 * std::abs(single[name].get<double>()))
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryEvalTaskTest, ::testing::ValuesIn(eval_tasks().names()),
                         [](const auto& test) { return test.param; });

TEST_F(EveryEvalTaskTest, AllTasksOfAStageKeepTheirResults) {
  const std::vector<std::string> all = eval_tasks().names();
  const json together = run(all, 1, 1);
  for (const std::string& task : all) EXPECT_EQ(together["tasks"][task], run({task}, 1, 1)["tasks"][task]) << task;
  EXPECT_EQ(together["baseline"]["tasks"].size(), all.size());
}

}  // namespace
}  // namespace moe
