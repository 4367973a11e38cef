#include "eval/eval_tasks.h"

#include <gtest/gtest.h>

#include <set>

#include "common/measures.h"
#include "eval/eval_fixture.h"

namespace moe {
namespace {

using nlohmann::json;

class EveryEvalTaskTest : public testing::EvaluationTest, public ::testing::WithParamInterface<std::string> {
 protected:
  json run_tasks(const std::vector<std::string>& tasks, int ranks = 1, int expert_parallel = 1) {
    spec_.clear_tasks();
    for (const std::string& task : tasks) spec_.add_tasks(task);
    return run("moe", "dense", ranks, expert_parallel);
  }
};

TEST_P(EveryEvalTaskTest, MeasuresWhatTheTableSaysOnEveryLayout) {
  const json single = run_tasks({GetParam()})["tasks"][GetParam()];
  std::set<std::string> measured, listed;
  for (const auto& [name, value] : single.items()) {
    if (value.is_number()) measured.insert(name);
  }
  for (const Measure& measure : result_measures("evaluate")) {
    const bool is_of_this = !measure.name.starts_with("baseline_") && !measure.is_optional;
    if (measure.task == GetParam() && measure.has_whole && is_of_this) listed.insert(measure.name);
  }
  EXPECT_EQ(measured, listed) << "the rows of common/measures.cc with this task";
  EXPECT_TRUE(measured.contains(eval_tasks().at(GetParam()).main_measure));
  EXPECT_EQ(single["domains"].size(), 2u);
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 2}, {4, 2}}) {
    const json spread = run_tasks({GetParam()}, ranks, expert_parallel)["tasks"][GetParam()];
    for (const std::string& name : measured)
      EXPECT_NEAR(spread[name].get<double>(), single[name].get<double>(), 1e-9 * std::abs(single[name].get<double>()))
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryEvalTaskTest, ::testing::ValuesIn(eval_tasks().names()),
                         [](const auto& test) { return test.param; });

TEST_F(EveryEvalTaskTest, AllTasksOfAStageKeepTheirResults) {
  const std::vector<std::string> all = eval_tasks().names();
  const json together = run_tasks(all);
  for (const std::string& task : all) EXPECT_EQ(together["tasks"][task], run_tasks({task})["tasks"][task]) << task;
  EXPECT_EQ(together["baseline"]["tasks"].size(), all.size());
}

}  // namespace
}  // namespace moe
