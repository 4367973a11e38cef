#include "report/run_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/json_lines.h"
#include "report/run_summary_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::kFound;
using testing::model_facts;
using ::testing::Not;
using testing::RunSummaryTest;

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

/// What is not finite has become null on the way, and is left out.
TEST_F(RunSummaryTest, WhetherExpertsLiveIsDrawnOverTheSteps) {
  EXPECT_THAT(report_of(records()), Not(HasSubstr("Whether experts live")));
  std::vector<json> made = records();
  const auto at_step = [](int step, const json& share) {
    const json ffn = {{"layer", 1}, {"part", "ffn"}, {"least_rms_over_mean", 0.75}, {"least_share_over_mean", share}},
               attention = {{"layer", 1}, {"part", "attention"}, {"least_rms_over_mean", 0.25}};
    return json{{"step", step}, {"parts", {ffn, attention}}};
  };
  made[1]["details"]["expert_vitality"] = {at_step(2, 0.5), at_step(3, 0), at_step(4, nullptr)};
  const std::string html = report_of(made);
  for (const char* part :
       {"Whether experts live", "Least output share of an expert, train",
        "layer 1, step 2: 0.50 × the mean of its layer", "layer 1, step 3: 0.00 × the mean of its layer",
        "Least weights of an expert, train", "layer 1 attention, step 3: 0.25 × the mean of its layer"})
    EXPECT_THAT(html, HasSubstr(part));
  EXPECT_THAT(html, Not(HasSubstr("nan")));

  json many = json::array();
  for (int step = 1; step <= 1000; ++step) many.push_back(at_step(step, 0.5));
  made[1]["details"]["expert_vitality"] = many;
  const std::string thinned = report_of(made);
  EXPECT_THAT(thinned, HasSubstr("layer 1, step 1000: "));
  EXPECT_THAT(thinned, Not(HasSubstr("layer 1, step 999: ")));
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
  made[0]["details"]["receipt"]["layers"] = {{{"layer", 0}, {"relative_ffn_error", 0.125}},
                                             {{"layer", 5}, {"relative_ffn_error", nullptr}}};
  made[0]["details"]["receipt"]["attention"]["layers"] =
      json::array({{{"layer", 4}, {"relative_attention_error", 0.75}}});
  write(made);
  const std::string html = read_file(run_root() / "report.html");
  for (const char* part :
       {"900 held-out tokens", "<title>FFN: 0.125 at 0</title>", "<title>attention: 0.75 at 4</title>"})
    EXPECT_THAT(html, HasSubstr(part));
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

TEST_F(RunSummaryTest, AModelOfAttentionExpertsAloneIsNotCalledDense) {
  std::vector<json> made = records();
  json& baseline = made.back()["details"]["baseline"];
  spec_.mutable_stages(2)->mutable_evaluate()->set_baseline("./outside");
  write(made);
  const auto page = [this] { return read_file(run_root() / "report.html"); };
  EXPECT_THAT(page(), HasSubstr("Held-out loss, dense → trained"));
  baseline["tasks"]["perplexity"]["attention_expert_load"] = {{5, 3}, {4, 4}};
  EXPECT_THAT(write(made), HasSubstr("./outside"));
  EXPECT_THAT(page(), Not(HasSubstr("dense →")));
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
