// The two halves of a job kind: its row, which everybody asks, and its runner, which links all that it needs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"
#include "worker/jobs.h"
#include "worker/known_names.h"

namespace moe {
namespace {

TEST(JobRunnersTest, EveryKindHasARunnerAndEveryRunnerAKind) {
  EXPECT_EQ(job_runners().names(), job_kinds().names());
  for (const std::string& name : job_runners().names()) EXPECT_TRUE(job_runners().at(name)) << name;
}

// Checks ask for lists by name, and what is not known is not checked: a list that is spelt otherwise on the two sides
// would let every name pass.
TEST(JobRunnersTest, EveryListOfNamesIsAskedForByARow) {
  const KnownNames known = known_names();
  std::map<std::string, int> refused;
  for (const auto& [list, names] : known) {
    EXPECT_FALSE(names.empty()) << list;
    const LoadedPipeline loaded = load_pipeline(
        "apiVersion: moe/v1\nkind: Pipeline\nname: p\nstages:\n"
        "  - {name: c, convert: {input: ./m, method: '?', router_init: '?', template: '?', experts: 4, top_k: 2, "
        "scale_mode: k}}\n"
        "  - {name: t, train: {input: ./m, steps: 1, data: [{path: a}], template: '?'}}\n"
        "  - {name: e, evaluate: {input: ./m, data: [{path: a}], tasks: ['?'], template: '?'}}\n"
        "  - {name: x, export: {input: ./m, format: '?'}}\n",
        "a.yaml", {}, {{list, names}});
    refused[list] = static_cast<int>(loaded.problems.size());
    for (const Problem& problem : loaded.problems)
      EXPECT_THAT(problem.message, ::testing::HasSubstr("unknown value (?)"));
  }
  const std::map<std::string, int> expected{
      {"export_formats", 1}, {"methods", 1}, {"router_inits", 1}, {"tasks", 1}, {"templates", 3}};
  EXPECT_EQ(refused, expected);
}

}  // namespace
}  // namespace moe
