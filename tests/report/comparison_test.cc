#include "report/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/file_io.h"
#include "report/compared_conversions.h"
#include "report/compared_variants.h"
#include "report/run_summary_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::model_facts;
using ::testing::Not;
using testing::RunSummaryTest;

/// Two conversions of one model, the first trained in two ways, the second not at all.
class ComparisonTest : public RunSummaryTest {
 protected:
  ComparisonTest() {
    spec_.clear_stages();
    state_.clear_stages();
    state_.set_phase("SUCCEEDED");
    add_conversion("random", 8, 0, 2);
    add_conversion("residual", 7, 1, 1);
    for (const char* name : {"long", "short"}) {
      spec_.add_stages()->set_name(name);
      spec_.mutable_stages()->rbegin()->mutable_train()->set_input("random.model");
      add_stage(name, false, "SUCCEEDED", "");
      records_.push_back(record(name, "train", 1, json::object()));
    }
    add_evaluation("random", 8, 6.5, 0.5);
    add_evaluation("residual", 7, 5.25, 0.75);
    add_evaluation("long", 8, 3.125, 0.875);
    add_evaluation("short", 8, 4.0, 0.25);
    spec_.add_stages()->set_name("export");
    spec_.mutable_stages()->rbegin()->mutable_export_()->set_input("long.model");
    add_stage("export", false, "SUCCEEDED", "");
    records_.push_back(record("export", "export", 1, {{"export", {{"format", "mixtral"}}}}));
  }

  void add_conversion(const std::string& name, int experts, int shared, int top_k) {
    v1::Stage& stage = *spec_.add_stages();
    stage.set_name(name);
    stage.mutable_convert()->set_input("./dense");
    stage.mutable_convert()->mutable_ffn()->set_experts(experts);
    stage.mutable_convert()->mutable_ffn()->set_shared_experts(shared);
    stage.mutable_convert()->mutable_ffn()->set_top_k(top_k);
    add_stage(name, false, "SUCCEEDED", "");
    records_.push_back(record(name, "convert", 1, json::object()));
  }

  /// Of `<model>.model` and the dense one. The loss of general text, that of maths is one less; shares of two experts.
  void add_evaluation(const std::string& model, int experts, double loss, double share) {
    const std::string name = "evaluate-" + model;
    v1::Stage& stage = *spec_.add_stages();
    stage.set_name(name);
    stage.mutable_evaluate()->set_input(model + ".model");
    stage.mutable_evaluate()->set_baseline("./dense");
    add_stage(name, false, "SUCCEEDED", "");
    const auto task = [](double general) -> json {
      return {{"domains",
               {{"general", {{"loss", general}, {"perplexity", 2.0}}},
                {"maths", {{"loss", general - 1}, {"perplexity", 2.0}}}}}};
    };
    json measured = task(loss);
    measured["expert_load"] = {{1, 1}, {share, 2 - share}};
    records_.push_back(record(name, "evaluate", 1,
                              {{"model", model_facts(experts)},
                               {"tasks", {{"perplexity", measured}}},
                               {"baseline", {{"model", model_facts(0)}, {"tasks", {{"perplexity", task(2.5)}}}}}}));
  }

  std::vector<json> records_;
};

TEST_F(ComparisonTest, RowsAreConversionsInTheOrderOfTheFile) {
  const std::vector<ComparedConversion> rows = compared_conversions(spec_, records_);
  std::vector<std::string> labels;
  for (const ComparedConversion& row : rows) labels.push_back(row.label);
  EXPECT_THAT(labels, ::testing::ElementsAre("./dense", "residual", "random, long", "random, short"));
  EXPECT_EQ(rows[0].experts, "");
  EXPECT_EQ(rows[0].converted, (std::map<std::string, double>{{"general", 2.5}, {"maths", 1.5}}));
  EXPECT_TRUE(rows[0].trained.empty());
  EXPECT_EQ(rows[1].experts, "7 + 1 shared, top-1");
  EXPECT_EQ(rows[1].converted.at("maths"), 4.25);
  EXPECT_TRUE(rows[1].trained.empty());
  EXPECT_EQ(rows[1].seconds, 12.5);
  EXPECT_EQ(rows[1].load, (std::pair<double, double>{0.75, 1.25}));
  EXPECT_EQ(rows[2].experts, "8, top-2");
  EXPECT_EQ(rows[2].converted.at("general"), 6.5);
  EXPECT_EQ(rows[2].trained.at("general"), 3.125);
  EXPECT_EQ(rows[2].seconds, 25) << "conversion and training";
  EXPECT_EQ(rows[2].load, (std::pair<double, double>{0.875, 1.125})) << "of the trained model";
  EXPECT_EQ(rows[2].export_format, "mixtral");
  EXPECT_EQ(rows[3].trained.at("general"), 4.0);
  EXPECT_EQ(rows[3].export_format, "");
}

TEST_F(ComparisonTest, WhatAllNamesEndInIsNotSaid) {
  for (const auto& [stage, name] :
       std::vector<std::pair<int, std::string>>{{0, "random-convert"}, {1, "residual-convert"}}) {
    const std::string before = spec_.stages(stage).name();
    spec_.mutable_stages(stage)->set_name(name);
    for (v1::Stage& each : *spec_.mutable_stages()) {
      if (each.train().input() == before + ".model") each.mutable_train()->set_input(name + ".model");
      if (each.evaluate().input() == before + ".model") each.mutable_evaluate()->set_input(name + ".model");
    }
    records_[stage]["stage"] = name;
  }
  std::vector<std::string> labels;
  for (const ComparedConversion& row : compared_conversions(spec_, records_)) labels.push_back(row.label);
  EXPECT_THAT(labels, ::testing::ElementsAre("./dense", "residual", "random, long", "random, short"));
}

TEST_F(ComparisonTest, TheTableTakesThePlaceOfTheModels) {
  const std::string table = write(records_);
  EXPECT_THAT(table, HasSubstr("3 converted models compared")) << table;
  EXPECT_THAT(table, HasSubstr("random, long, 2.625 after training"));
  EXPECT_THAT(
      table, ::testing::ContainsRegex(
                 "random, long +8, top-2 +60 % +3\\.125 +2\\.125 +6\\.000 → 2\\.625 +- +0\\.88-1\\.12 +25 s +mixtral"));
  EXPECT_THAT(table, ::testing::ContainsRegex("residual +7 \\+ 1 shared, top-1 +60 % +5\\.250 +4\\.250 +4\\.750 +-"));
  EXPECT_THAT(table, Not(HasSubstr("active per token")));
  const std::string html = read_file(run_root() / "report.html");
  EXPECT_THAT(html, HasSubstr("<h2>Conversions compared</h2>"));
  EXPECT_THAT(html, HasSubstr("random, long, after training: 2.625"));
  EXPECT_THAT(html, Not(HasSubstr("<h2>Models</h2>")));
}

TEST_F(ComparisonTest, ActiveIsAShareOfTheOwnDenseModel) {
  for (const ComparedConversion& row : compared_conversions(spec_, records_)) {
    EXPECT_EQ(row.dense_parameters, 6823424) << row.label;
    EXPECT_EQ(row.parameters_active, 4102144) << row.label;
  }
  // Measured without a dense model: unknown.
  for (json& each : records_) each["details"].erase("baseline");
  EXPECT_THAT(write(records_), Not(HasSubstr("60 %")));
  EXPECT_EQ(compared_conversions(spec_, records_).front().dense_parameters, 0);
}

/// A mixture that they are compared with, and what an export wrote of one of them, are no rows.
TEST_F(ComparisonTest, OnlyDenseModelsAndConversionsAreRows) {
  v1::Stage& stage = *spec_.add_stages();
  stage.set_name("of-export");
  stage.mutable_evaluate()->set_input("export.model");
  stage.mutable_evaluate()->set_baseline("./mixture");
  json made = records_[4];
  made["stage"] = "of-export";
  made["details"]["baseline"]["model"] = model_facts(4);
  made["details"]["model"] = model_facts(0);
  records_.push_back(made);
  std::vector<std::string> labels;
  for (const ComparedConversion& row : compared_conversions(spec_, records_)) labels.push_back(row.label);
  EXPECT_THAT(labels, ::testing::ElementsAre("./dense", "residual", "random, long", "random, short"));
}

/// A training that drew its weights anew began with nothing of what was measured of the conversion.
TEST_F(ComparisonTest, ATrainingFromScratchHasNothingOfTheConversion) {
  spec_.mutable_stages(2)->mutable_train()->set_from_scratch(true);  // "long"
  records_[0]["metrics"]["step0_kl_divergence"] = 3.5;
  const std::vector<ComparedConversion> rows = compared_conversions(spec_, records_);
  ASSERT_EQ(rows[2].label, "random, long");
  EXPECT_TRUE(rows[2].converted.empty());
  EXPECT_FALSE(rows[2].divergence);
  EXPECT_EQ(rows[2].trained.at("general"), 3.125);
  EXPECT_EQ(rows[2].experts, "8, top-2") << "its shape is";
  ASSERT_EQ(rows[3].label, "random, short");
  EXPECT_EQ(rows[3].converted.at("general"), 6.5);
  EXPECT_EQ(rows[3].divergence, 3.5);
}

/// Trained to be merged, say: what was measured is the model that it began with, which has a row.
TEST_F(ComparisonTest, TrainingsOfADenseModelThatNobodyMeasuredAreNoRows) {
  for (const char* name : {"maths", "code"}) {
    spec_.add_stages()->set_name(name);
    spec_.mutable_stages()->rbegin()->mutable_train()->set_input("./dense");
    add_stage(name, false, "SUCCEEDED", "");
    records_.push_back(record(name, "train", 1, json::object()));
  }
  add_evaluation("code", 0, 2.25, 1);
  std::vector<std::string> labels;
  for (const ComparedConversion& row : compared_conversions(spec_, records_)) labels.push_back(row.label);
  EXPECT_THAT(labels, ::testing::ElementsAre("./dense", "residual", "random, long", "random, short", "./dense, code"));
}

TEST_F(ComparisonTest, MeansAreOverTheDomainsThatAllHave) {
  PipelineReport report;
  report.compared.resize(2);
  report.compared[0].variant = "a";
  report.compared[0].converted = {{"general", 2.0}, {"maths", 4.0}, {"code", 9.0}};
  report.compared[1].variant = "b";
  report.compared[1].converted = {{"general", 3.0}, {"maths", 1.0}};
  report.compared[1].trained = {{"general", 1.5}, {"maths", 0.5}, {"books", 7.0}};
  report.models.resize(1);
  for (const char* domain : {"general", "maths", "code", "books"}) report.models[0].domains[domain] = {1, 1};
  EXPECT_THAT(common_domains(report), ::testing::ElementsAre("general", "maths"));
  const std::vector<ComparedVariant> rows = compared_variants(report);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].mean_converted->mean, 3.0);
  EXPECT_FALSE(rows[0].mean_converted->deviation);
  EXPECT_FALSE(rows[0].mean_trained);
  EXPECT_EQ(rows[1].mean_trained->mean, 1.0);
}

TEST(SeedSpreadTest, MeanAndSampleDeviation) {
  EXPECT_FALSE(spread_of({}));
  EXPECT_EQ(spread_of({2.5})->mean, 2.5);
  EXPECT_FALSE(spread_of({2.5})->deviation);
  const SeedSpread spread = *spread_of({1.0, 2.0, 6.0});
  EXPECT_DOUBLE_EQ(spread.mean, 3.0);
  EXPECT_DOUBLE_EQ(*spread.deviation, std::sqrt(7.0));
}

/// Two seeds of one variant, as for_each names them, beside a conversion of another name.
TEST_F(ComparisonTest, SeedsOfAVariantAreOneRow) {
  spec_.clear_stages();
  state_.clear_stages();
  records_.clear();
  for (const int seed : {1, 2}) {
    const std::string name = "random-s" + std::to_string(seed);
    add_conversion(name + "-convert", 8, 0, 2);
    spec_.mutable_stages()->rbegin()->set_seed(seed);
    spec_.add_stages()->set_name(name + "-train");
    spec_.mutable_stages()->rbegin()->mutable_train()->set_input(name + "-convert.model");
    add_stage(name + "-train", false, "SUCCEEDED", "");
    records_.push_back(record(name + "-train", "train", 1, json::object()));
    add_evaluation(name + "-convert", 8, 5.0 + seed, 0.5 + 0.25 * seed);
    add_evaluation(name + "-train", 8, 3.0 + 0.5 * seed, 0.5 + 0.25 * seed);
  }
  add_conversion("single-s3-convert", 8, 0, 2);  // its seed is another: a name like any
  spec_.mutable_stages()->rbegin()->set_seed(4);
  add_evaluation("single-s3-convert", 8, 4.0, 1.0);

  PipelineReport report;
  report.compared = compared_conversions(spec_, records_);
  report.models.resize(1);
  for (const char* domain : {"general", "maths"}) report.models[0].domains[domain] = {1, 1};
  const std::vector<ComparedVariant> rows = compared_variants(report);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].label, "./dense");
  EXPECT_EQ(rows[2].label, "single-s3");
  const ComparedVariant& random = rows[1];
  EXPECT_EQ(random.label, "random (2 seeds)");
  EXPECT_DOUBLE_EQ(random.converted.at("general").mean, 6.5);
  EXPECT_DOUBLE_EQ(*random.converted.at("general").deviation, std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(random.mean_trained->mean, 3.25);
  EXPECT_DOUBLE_EQ(*random.mean_trained->deviation, std::sqrt(0.125));
  EXPECT_EQ(random.load, (std::pair<double, double>{0.75, 1.25})) << "widest of either";
  EXPECT_EQ(random.seconds, 25);

  const std::string table = write(records_);
  EXPECT_THAT(table, ::testing::ContainsRegex("random \\(2 seeds\\) .*6\\.000 ± 0\\.707 → 3\\.250 ± 0\\.354")) << table;
  const std::string html = read_file(run_root() / "report.html");
  EXPECT_THAT(html, HasSubstr("random (2 seeds), after training: 3.250 ± 0.354"));
  EXPECT_THAT(html, HasSubstr("standard deviation over the seeds"));
  const json summary = json::parse(read_file(run_root() / "summary.json"))["comparison"][1];
  EXPECT_EQ(summary["label"], "random (2 seeds)");
  EXPECT_DOUBLE_EQ(summary["converted"]["domains"]["maths"]["mean"], 5.5);
  EXPECT_DOUBLE_EQ(summary["trained"]["mean"]["deviation"], std::sqrt(0.125));
  EXPECT_EQ(summary["trained"]["mean"]["seeds"], (json{3.0, 3.5})) << "to compare seed by seed";
  EXPECT_EQ(summary["load"], (json{{"least", 0.75}, {"greatest", 1.25}}));
}

TEST_F(ComparisonTest, OneConversionAndNothingMeasuredAreNoComparison) {
  EXPECT_TRUE(compared_conversions(spec_, {}).empty());
  spec_.mutable_stages(1)->mutable_train()->set_input("random.model");
  EXPECT_TRUE(compared_conversions(spec_, records_).empty());
}

/// A dense model that is trained as the others are is a row of its own.
TEST_F(ComparisonTest, ATrainedDenseModelStandsBesideItself) {
  spec_.mutable_stages(3)->mutable_train()->set_input("./dense");
  std::vector<std::string> labels;
  for (const ComparedConversion& row : compared_conversions(spec_, records_)) labels.push_back(row.label);
  EXPECT_THAT(labels, ::testing::ElementsAre("./dense", "residual", "random", "./dense, short"));
}

}  // namespace
}  // namespace moe
