#include "common/measures.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "common/step_record.h"

namespace moe {
namespace {

StepRecord full_record() {
  StepRecord record;
  record.step = 3;
  record.steps = 9;
  record.loss = 2.5;
  record.total_loss = 2.75;
  record.statistics = {{"balance_loss", 1.25},
                       {"router_entropy", 1.75},
                       {"router_top_probability", 0.5},
                       {"z_loss", 4.5},
                       {"dropped_tokens", 7},
                       {"attention_balance_loss", 1.125},
                       {"attention_router_entropy", 0.75},
                       {"attention_router_top_probability", 0.25},
                       {"least_expert_rms_over_mean", 0.875},
                       {"least_output_share_over_mean", 0.625}};
  record.gradient_norm = 0.5;
  record.learning_rate = 1e-3;
  record.tokens = 300;
  record.step_tokens = 100;
  record.seconds = 0.5;
  record.expert_load = {{3, 1}, {2, 2}};
  record.attention_expert_load = {{1, 3}, {}};
  record.validation_loss = 3;
  record.validation = {{"books", 3.5}, {"code", 2.5}};
  record.expert_vitality = {{{"layer", 1}, {"weight_norm", {2.5, 3.5}}}};
  return record;
}

TEST(MeasuresTest, EachKindNamesAMeasureOnceAndEachIsOfSomething) {
  std::set<std::pair<std::string, std::string>> seen;
  for (const Measure& measure : measures()) {
    SCOPED_TRACE(measure.kind + "." + measure.name);
    EXPECT_TRUE(seen.emplace(measure.kind, measure.name).second);
    EXPECT_TRUE(measure.of_steps || measure.of_result || measure.of_work);
    EXPECT_TRUE(!measure.of_work || work_measure(measure.kind) == &measure) << "a kind has one unit of work";
    EXPECT_EQ(measure.name.find('.'), std::string::npos) << "the part behind the dot is a domain";
    EXPECT_TRUE(measure.help.ends_with("."));
  }
}

TEST(MeasuresTest, ANameHasOneUnitWhicheverKindMeasuresIt) {
  for (const Measure& measure : measures())
    EXPECT_EQ(unit_of(measure.name), measure.unit) << measure.kind << "." << measure.name;
  EXPECT_EQ(unit_of("validation_loss.books"), "nats per token");
  EXPECT_EQ(unit_of("perplexity"), "");
  EXPECT_EQ(unit_of("a name to come"), "");
}

TEST(MeasuresTest, NoTwoOfAKindShareASeries) {
  std::set<std::string> seen;
  for (const Measure& measure : measures()) {
    if (measure.series.empty()) {
      EXPECT_TRUE(measure.labels.empty() && measure.domain_label.empty()) << measure.name;
      continue;
    }
    EXPECT_TRUE(measure.series.starts_with("moe_")) << measure.series;
    EXPECT_TRUE(measure.domain_label.empty() || !measure.domains.empty()) << measure.name;
    std::string key = measure.kind + " " + measure.series;
    for (const auto& [label, value] : measure.labels) key += " " + label + "=" + value;
    EXPECT_TRUE(seen.insert(key).second) << key;
  }
}

TEST(MeasuresTest, EveryNumberOfAStepIsInTheTableAndTheOtherWayRound) {
  const std::map<std::string, double> values = values_of(full_record());
  for (const auto& [name, value] : values) {
    const std::string plain = name.substr(0, name.find('.'));
    const Measure* measure = step_measure("train", plain);
    ASSERT_NE(measure, nullptr) << name;
    EXPECT_TRUE(plain == name || !measure->domains.empty()) << name;
  }
  for (const Measure& measure : measures()) {
    EXPECT_TRUE(!measure.of_steps || values.contains(measure.name)) << measure.name;
  }
}

TEST(StepRecordTest, ALineHasWhatWasMeasured) {
  EXPECT_EQ(
      json_line(full_record()).dump(),
      R"({"attention_balance_loss":1.125,"attention_expert_load":[[1,3],[]],"attention_router_entropy":0.75,)"
      R"("attention_router_top_probability":0.25,"balance_loss":1.25,"dropped_tokens":7.0,"expert_load":[[3,1],[2,2]],)"
      R"("expert_vitality":[{"layer":1,"weight_norm":[2.5,3.5]}],"gradient_norm":0.5,"learning_rate":0.001,)"
      R"("least_expert_rms_over_mean":0.875,"least_output_share_over_mean":0.625,"loss":2.5,)"
      R"("router_entropy":1.75,"router_top_probability":0.5,"step":3,"step_seconds":0.5,"tokens":300,"tokens_per_second":200.0,)"
      R"("validation":{"books":3.5,"code":2.5},"validation_loss":3.0,"z_loss":4.5})");
  StepRecord dense;
  dense.seconds = 1;
  dense.skipped = true;
  dense.loss = std::nan("");
  EXPECT_EQ(json_line(dense).dump(), R"({"gradient_norm":0.0,"learning_rate":0.0,"loss":null,"skipped":true,"step":0,)"
                                     R"("step_seconds":1.0,"tokens":0,"tokens_per_second":0.0})");
  EXPECT_FALSE(dense.is_finite());
}

TEST(StepRecordTest, StatisticsStandBesideTheLoopsNumbers) {
  StepRecord record = full_record();
  record.statistics["novel"] = 0.75;
  EXPECT_EQ(json_line(record)["novel"], 0.75);
  EXPECT_EQ(values_of(record).at("novel"), 0.75);
  EXPECT_TRUE(is_free_name("novel"));
  const nlohmann::json line = json_line(full_record());
  for (const auto& [name, value] : line.items())
    EXPECT_EQ(is_free_name(name), full_record().statistics.contains(name)) << name;
  EXPECT_EQ(values_of(record).at("validation_loss.code"), 2.5);
}

}  // namespace
}  // namespace moe
