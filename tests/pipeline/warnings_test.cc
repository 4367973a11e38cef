#include "pipeline/warnings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/defaults.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> warnings(const std::string& stage, const std::string& defaults = "{}") {
  return warnings_of(effective_spec(load_pipeline_or_throw(
      "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\ndefaults: " + defaults +
          "\nstages:\n  - {name: s, " + stage + "}\n",
      "a.yaml", {}, {})));
}

std::string conversion(const std::string& more) {
  return "convert: {input: dense, method: sequential, router_init: kaiming, scale_mode: k, " + more + "}";
}

TEST(WarningsTest, ARouterWithoutGradientIsToldOnce) {
  EXPECT_THAT(warnings(conversion("experts: 8, top_k: 1, topk_norm: renorm")),
              ElementsAre(AllOf(HasSubstr("stage s: topk_norm renorm with top_k 1"), HasSubstr("no gradient"),
                                HasSubstr("straight_through"))));
  for (const char* fine : {"experts: 8, top_k: 1", "experts: 8, top_k: 1, topk_norm: raw",
                           "experts: 8, top_k: 1, topk_norm: straight_through",
                           "experts: 8, top_k: 2, topk_norm: renorm", "experts: 1, top_k: 1, topk_norm: renorm"}) {
    EXPECT_THAT(warnings(conversion(fine)), IsEmpty()) << fine;
  }
}

TEST(WarningsTest, RanksWithoutRowsAreCounted) {
  const std::string train = "train: {input: dense, steps: 1, data: [{path: a.jsonl}]";
  EXPECT_THAT(
      warnings(train + "}", "{gang: {ranks: 12}}"),
      ElementsAre(AllOf(HasSubstr("stage s: gang.ranks: 4 of 12 ranks get no row"), HasSubstr("micro_batch_rows 8"))));
  EXPECT_THAT(warnings(train + ", micro_batch_rows: 3}, gang: {ranks: 4}"), ElementsAre(HasSubstr("1 of 4 ranks")));
  EXPECT_THAT(warnings(train + ", micro_batch_rows: 12}", "{gang: {ranks: 12}}"), IsEmpty());
  EXPECT_THAT(warnings(train + "}"), IsEmpty());
}

/// A default that followed the ranks would train another model on another cluster.
TEST(WarningsTest, TheDefaultOfRowsDoesNotDependOnTheRanks) {
  for (const char* ranks : {"1", "3", "64"}) {
    const v1::PipelineSpec spec =
        effective_spec(load_pipeline_or_throw(std::string("apiVersion: moe/v1\nkind: Job\nname: a\ngang: {ranks: ") +
                                                  ranks + "}\ntrain: {input: ./m, steps: 1, data: [{path: a.jsonl}]}\n",
                                              "a.yaml", {}, {}));
    EXPECT_EQ(spec.stages(0).train().micro_batch_rows(), 8) << ranks;
    EXPECT_EQ(spec.stages(0).train().micro_steps(), 1) << ranks;
  }
}

}  // namespace
}  // namespace moe
