#include "report/run_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/job_folder.h"
#include "common/json_lines.h"
#include "report/compared_conversions.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kFound[] = "gate 'recovered' fails: evaluate.loss is 2.5, wanted <= 2";

json model_facts(int experts) {
  return {{"parameters_total", 6823424},
          {"parameters_active", 4102144},
          {"experts", experts},
          {"top_k", experts > 0 ? 2 : 0}};
}

// convert, train, evaluate, and a gate that holds; jobs lie where the coordinator puts them.
class RunSummaryTest : public ::testing::Test {
 protected:
  RunSummaryTest() {
    spec_.set_name("quick");
    spec_.add_stages()->set_name("convert");
    spec_.mutable_stages(0)->mutable_convert()->set_input("./dense");
    spec_.add_stages()->set_name("train");
    spec_.mutable_stages(1)->mutable_train()->set_input("convert.model");
    spec_.mutable_stages(1)->mutable_train()->set_steps(3);
    spec_.add_stages()->set_name("evaluate");
    spec_.mutable_stages(2)->mutable_evaluate()->set_input("train.model");
    for (const char* domain : {"maths", "general"}) {
      spec_.mutable_stages(2)->mutable_evaluate()->add_data()->set_domain(domain);
    }
    spec_.add_stages()->mutable_gate()->set_name("recovered");
    state_.set_phase("HELD");
    for (const char* name : {"convert", "train", "evaluate"}) add_stage(name, false, "SUCCEEDED", "");
    add_stage("recovered", true, "HELD", kFound);
    (*state_.mutable_stages(1)->mutable_metrics())["loss"] = 2.6;
    make_directories(folder("train").attempt_path(2));
    write_file_atomically(folder("train").attempt_path(2) / "metrics.jsonl",
                          "{\"step\": 1, \"loss\": 4.5}\n{\"step\": 2, \"loss\": 3.5}\n{\"step\": 3, \"lo");
    make_directories(run_root());
  }

  void add_stage(const std::string& name, bool is_gate, const std::string& status, const std::string& message) {
    v1::StageState& stage = *state_.add_stages();
    stage.set_name(name);
    stage.set_is_gate(is_gate);
    stage.set_status(status);
    stage.set_message(message);
  }

  std::filesystem::path run_root() const { return root_ / "quick-7f3k"; }
  JobFolder folder(const std::string& stage) const { return JobFolder(root_ / ("quick-7f3k-" + stage)); }

  static json record(const std::string& stage, const std::string& kind, int attempt, const json& details) {
    return {{"stage", stage},
            {"kind", kind},
            {"attempt", attempt},
            {"seconds", 12.5},
            {"finished_at", "2026-11-24T12:00:00Z"},
            {"metrics", json::object()},
            {"details", details}};
  }

  static std::vector<json> records() {
    const json domains = {{"general", {{"loss", 2.5}, {"perplexity", 12.18}}},
                          {"maths", {{"loss", 2.25}, {"perplexity", 9.49}}}};
    return {record("convert", "convert", 1, {{"output_scales", {3.0, 2.5}}}),
            record("train", "train", 2,
                   {{"curve", {{1, 4.5}, {2, nullptr}, {3, 2.6}}},
                    {"validation", {{{"step", 3}, {"loss", 2.75}}}},
                    {"expert_load", {{10, 30}, {25, 15}}}}),
            record("evaluate", "evaluate", 1,
                   {{"model", model_facts(8)},
                    {"tasks", {{"perplexity", {{"domains", domains}}}}},
                    {"baseline", {{"model", model_facts(0)}, {"tasks", {{"perplexity", {{"domains", domains}}}}}}}})};
  }

  std::string write(const std::vector<json>& made) const {
    return write_run_summary(run_root(), spec_, state_, made,
                             [this](const std::string& stage) { return folder(stage).path(); });
  }

  testing::TempDir root_;
  v1::PipelineSpec spec_;
  v1::Pipeline state_;
};

TEST_F(RunSummaryTest, AHeldPipelineSaysWhatItsGateFound) {
  const std::string table = write(records());
  EXPECT_THAT(table, HasSubstr("quick: HELD"));
  const json summary = json::parse(read_file(run_root() / "summary.json"));
  EXPECT_EQ(summary["state"], "HELD");
  EXPECT_EQ(summary["reason"], kFound);
  EXPECT_EQ(summary["gates"],
            json::parse(R"([{"name": "recovered", "state": "HELD", "message": ")" + std::string(kFound) + "\"}]"));
  EXPECT_THAT(read_file(run_root() / "report.html"), HasSubstr("The pipeline is HELD: gate &#39;recovered&#39; fails"));
  // Once it is over, the engine's reason counts.
  state_.set_phase("FAILED");
  state_.set_reason("gate 'recovered' was rejected");
  state_.mutable_stages(3)->set_status("FAILED");
  write(records());
  EXPECT_EQ(json::parse(read_file(run_root() / "summary.json"))["reason"], "gate 'recovered' was rejected");
}

TEST_F(RunSummaryTest, RecordsAndConfigurationAreKeptWhole) {
  write(records());
  const json summary = json::parse(read_file(run_root() / "summary.json"));
  EXPECT_EQ(summary["name"], "quick");
  EXPECT_EQ(summary["stages"], json(records()));
  // The schema's names, and values that are zero too.
  EXPECT_EQ(summary["config"]["stages"][1]["train"]["steps"], "3");
  EXPECT_EQ(summary["config"]["stages"][3]["gate"]["value"], 0.0);
  EXPECT_TRUE(summary["config"].contains("api_version"));
}

/// Of dense layers there is no scale and no load, and the numbers of the others are those of the model.
TEST_F(RunSummaryTest, DenseLayersAmongMixtures) {
  std::vector<json> made = records();
  made[0]["details"]["output_scales"] = {nullptr, 2.5};
  made[1]["details"]["expert_load"] = {json::array(), {25, 15}};
  made[2]["details"]["tasks"]["perplexity"]["expert_load"] = {json::array(), {30, 10}};
  const std::string table = write(made);
  EXPECT_THAT(table, HasSubstr("load, layer 1"));
  EXPECT_THAT(table, Not(HasSubstr("load, layer 0")));
  EXPECT_THAT(table, HasSubstr("0.50-1.50"));
  const std::string html = read_file(run_root() / "report.html");
  EXPECT_THAT(html, HasSubstr("Output scale by layer: -, 2.5"));
  EXPECT_THAT(html, HasSubstr("layer 1, expert 0: 1.25 × an even share"));
  EXPECT_THAT(html, Not(HasSubstr("layer 0, expert")));
}

TEST_F(RunSummaryTest, TrainingLinesOfAllStagesStandInOneFile) {
  write(records());
  const std::vector<json> lines = read_json_lines(run_root() / "metrics.jsonl");
  ASSERT_EQ(lines.size(), 2u) << "the torn line is left out";
  EXPECT_EQ(lines[1], json::parse(R"({"step": 2, "loss": 3.5, "stage": "train"})"));
}

TEST_F(RunSummaryTest, AConversionTellsOnWhatItWasMeasured) {
  (*state_.mutable_stages(0)->mutable_metrics())["step0_loss"] = 4.5;
  std::vector<json> made = records();
  made[0]["details"]["receipt"] = {{"tokens", 900}, {"held_out", false}};
  EXPECT_THAT(write(made), HasSubstr("convert before training, on 900 tokens that it was fitted to: loss 4.500"));
  made[0]["details"]["receipt"]["held_out"] = true;
  write(made);
  EXPECT_THAT(read_file(run_root() / "report.html"), HasSubstr("900 held-out tokens"));
}

TEST_F(RunSummaryTest, TheReportNamesTheModelWhereItLies) {
  const std::string table = write(records());
  const std::string html = read_file(run_root() / "report.html");
  const std::string model = folder("train").output_path(2).string();
  EXPECT_THAT(table, HasSubstr(model));
  EXPECT_THAT(html, HasSubstr(model));
  EXPECT_THAT(html, Not(HasSubstr(folder("convert").output_path(1).string()))) << "only the last model";
  EXPECT_THAT(html, HasSubstr("after train"));
  EXPECT_LT(html.find("maths"), html.find("general")) << "domains in the file's order";
}

TEST_F(RunSummaryTest, ExportsStandBesideTheModel) {
  spec_.add_stages()->set_name("export");
  spec_.mutable_stages(4)->mutable_export_()->set_input("train.model");
  std::vector<json> made = records();
  made.push_back(record("export", "export", 1, {{"export", {{"format", "mixtral"}}}}));
  const std::string table = write(made);
  EXPECT_THAT(table, HasSubstr("model   " + folder("train").output_path(2).string()));
  EXPECT_THAT(table, HasSubstr("export  " + folder("export").output_path(1).string()));
}

TEST_F(RunSummaryTest, AStageThatHasNotRunHasItsKind) {
  spec_.add_stages()->set_name("export");
  spec_.mutable_stages(4)->mutable_export_()->set_input("train.model");
  add_stage("export", false, "PENDING", "");
  write(records());
  const std::string html = read_file(run_root() / "report.html");
  EXPECT_THAT(html, HasSubstr("export<small>export</small>"));
  EXPECT_THAT(html, HasSubstr("recovered<small>gate</small>"));
  EXPECT_THAT(html, HasSubstr("<span class=\"badge idle\">PENDING</span></td><td class=\"time\"></td>"))
      << "no time before it ran";
  state_.mutable_stages(4)->set_job_state(v1::JOB_STATE_PAUSED);
  write(records());
  EXPECT_THAT(read_file(run_root() / "report.html"), HasSubstr("PAUSED</span></td><td class=\"time\"></td>"))
      << "its job knows better";
}

TEST_F(RunSummaryTest, AModelIsCalledAfterWhatMadeItWheneverItWasMeasured) {
  // No evaluation right after the conversion: the first measured model is a trained one.
  const auto page = [this] { return read_file(run_root() / "report.html"); };  // the terminal's lines are wrapped
  std::string table = write(records());
  EXPECT_THAT(page(), HasSubstr("Held-out loss, dense → trained: maths 2.25 → 2.25, general 2.50 → 2.50."));
  EXPECT_THAT(page(), Not(HasSubstr("converted")));
  EXPECT_THAT(page(), Not(HasSubstr("of the gap")));

  // The converted model is measured last, on its own and on a further domain: it still stands before the trained one.
  v1::Stage& late = *spec_.add_stages();
  late.set_name("evaluate-late");
  late.mutable_evaluate()->set_input("convert.model");
  add_stage("evaluate-late", false, "SUCCEEDED", "");
  std::vector<json> made = records();
  made.push_back(record(
      "evaluate-late", "evaluate", 1,
      {{"model", model_facts(8)},
       {"domains",
        {{"general", {{"loss", 4.5}, {"perplexity", 90.0}}}, {"maths", {{"loss", 4.25}, {"perplexity", 70.1}}}}}}));
  table = write(made);
  EXPECT_THAT(table, ::testing::ContainsRegex("dense +converted +after train"));
  EXPECT_THAT(page(),
              HasSubstr("dense → converted → recovered: maths 2.25 → 4.25 → 2.25, general 2.50 → 4.50 → 2.50."));
  EXPECT_THAT(page(), HasSubstr("Training closed 100 % of the gap"));

  // Measured again: more domains are added, the same ones make a column of their own.
  v1::Stage& again = *spec_.add_stages();
  again.set_name("again");
  again.mutable_evaluate()->set_input("convert.model");
  add_stage("again", false, "SUCCEEDED", "");
  made.push_back(record("again", "evaluate", 1,
                        {{"model", model_facts(8)}, {"domains", {{"code", {{"loss", 3.125}, {"perplexity", 22.8}}}}}}));
  table = write(made);
  EXPECT_EQ(table.find("converted, again"), std::string::npos) << table;
  EXPECT_THAT(table, HasSubstr("3.125"));
  made.back()["details"]["domains"] = {{"general", {{"loss", 4.75}, {"perplexity", 115.6}}}};
  EXPECT_THAT(write(made), HasSubstr("converted, again"));
}

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

TEST_F(ComparisonTest, MeansAreOverTheDomainsThatAllHave) {
  PipelineReport report;
  report.compared.resize(2);
  report.compared[0].converted = {{"general", 2.0}, {"maths", 4.0}, {"code", 9.0}};
  report.compared[1].converted = {{"general", 3.0}, {"maths", 1.0}};
  report.compared[1].trained = {{"general", 1.5}, {"maths", 0.5}, {"books", 7.0}};
  report.models.resize(1);
  for (const char* domain : {"general", "maths", "code", "books"}) report.models[0].domains[domain] = {1, 1};
  EXPECT_THAT(common_domains(report), ::testing::ElementsAre("general", "maths"));
  EXPECT_EQ(mean_loss(report, report.compared[0], false), 3.0);
  EXPECT_EQ(mean_loss(report, report.compared[1], true), 1.0);
  EXPECT_TRUE(std::isnan(mean_loss(report, report.compared[0], true)));
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

TEST_F(RunSummaryTest, BeforeAnyStageIsDone) {
  state_.set_phase("FAILED");
  state_.set_reason("stage 'convert' failed: no such model");
  EXPECT_THAT(write({}), HasSubstr("no such model"));
  EXPECT_TRUE(json::parse(read_file(run_root() / "summary.json"))["stages"].empty());
  EXPECT_EQ(read_file(run_root() / "metrics.jsonl"), "");
}

}  // namespace
}  // namespace moe
