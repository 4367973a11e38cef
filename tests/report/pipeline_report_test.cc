#include "report/pipeline_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "common/file_io.h"
#include "report/conversion_report.h"
#include "report/sample_report.h"
#include "report/text.h"
#include "testing/paths.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A report of nothing but its end.
PipelineReport bare(const std::string& state) {
  PipelineReport report;
  report.name = "x";
  report.state = state;
  return report;
}

TEST(PipelineReportTest, SummarySaysWhatBecameOfTheModel) {
  EXPECT_EQ(summary_text(testing::sample_report()),
            "A dense model of 6.82 M parameters became a mixture of 8 experts per layer, 2 active: 6.83 M parameters, "
            "4.10 M of them (60 %) "
            "per token. Held-out loss, dense → converted → recovered: general 2.31 → 5.23 → 2.67, maths 1.87 → 4.92 → "
            "2.01, books 3.02 → 5.61 "
            "→ 3.40, code 1.44 → 4.87 → 1.61. Training closed 91 % of the gap that the conversion opened (mean of 4 "
            "domains).");
}

TEST(PipelineReportTest, SummarySaysHowManyLayersAreMixtures) {
  PipelineReport report = testing::sample_report();
  std::vector<std::vector<double>>& load = report.models.back().expert_load;
  ASSERT_EQ(load.size(), 6u);
  load[0].clear();
  load[5].clear();
  EXPECT_THAT(summary_text(report), HasSubstr("became a mixture of 8 experts in 4 of 6 layers, 2 active: "));
}

TEST(PipelineReportTest, SummaryOfAPipelineThatDidNotFinish) {
  PipelineReport report = testing::sample_report();
  report.state = "HELD";
  report.reason = "gate 'parity' fails";
  EXPECT_THAT(summary_text(report), HasSubstr("The pipeline is HELD: gate 'parity' fails. A dense model of"));
  report.models.clear();
  EXPECT_EQ(summary_text(report), "The pipeline is HELD: gate 'parity' fails.");
  EXPECT_EQ(summary_text(bare("SUCCEEDED")), "The pipeline is done.");
}

TEST(PipelineReportTest, GapClosedByHand) {
  PipelineReport report = testing::sample_report();
  // (5.231 - 2.671) / (5.231 - 2.313)
  EXPECT_NEAR(gap_closed(report, "general").value(), 0.877313, 1e-6);
  EXPECT_FALSE(gap_closed(report, "nowhere").has_value());
  // A conversion that damaged nothing opened no gap.
  report.models[1].domains["general"].loss = 2.0;
  EXPECT_FALSE(gap_closed(report, "general").has_value());
  report.models.resize(2);
  EXPECT_FALSE(gap_closed(report, "maths").has_value());
}

TEST(PipelineReportTest, DomainsInTheGivenOrderThenByName) {
  PipelineReport report = testing::sample_report();
  report.domain_order = {"maths", "absent"};
  EXPECT_THAT(domains_of(report), ElementsAre("maths", "books", "code", "general"));
}

TEST(PipelineReportTest, TerminalTableHoldsWhatTheReaderAsksFor) {
  const std::string text = render_terminal(testing::sample_report(), 100);
  for (const char* part : {"quickstart: SUCCEEDED", "loss (perplexity)", "dense", "converted", "after stage1",
                           "after stage2", "2.313 (10.1)", "5.231 (187)", "1.612 (5.01)", "6.82 M", "4.10 M",
                           "load, layer 0", "load, layer 5", "stage2 loss", "runs/quickstart/stage2/output-t1"}) {
    EXPECT_THAT(text, HasSubstr(part)) << text;
  }
  for (const int width : {60, 80, 100, 200}) {
    std::istringstream lines(render_terminal(testing::sample_report(), width));
    for (std::string line; std::getline(lines, line);) {
      const bool is_path = line.find("runs/") != std::string::npos;
      if (is_path || width < 80) continue;
      EXPECT_LE(display_width(line), width) << line;
    }
  }
}

TEST(PipelineReportTest, AConversionSaysWhatWasMeasuredOfIt) {
  PipelineReport report = testing::sample_report();
  StageReport& convert = report.stages[0];
  EXPECT_EQ(conversion_text(convert),
            "convert before training, on 2048 held-out tokens: loss 5.231 (dense 2.313), perplexity 187, KL to dense "
            "2.875; with all experts loss 2.313, KL 1.25e-12, logits off by 3.5e-07 of the greatest; FFN error 0.432 "
            "in the worst layer; load "
            "0.22-2.23 of an even share, 6 % of the experts dead; router logits deviate by 1.00. It took 4.1 s and "
            "312 MB of memory.");
  EXPECT_THAT(render_terminal(report, 400), HasSubstr(conversion_text(convert)));
  const std::string html = render_html(report);
  for (const char* part : {"<h2>Conversions</h2>", "2048 held-out tokens", "5.231", "dense 2.313", "2.875", "1.25e-12",
                           "logits 3.5e-07", "0.432", "to 2.23", "6 %", "312 MB"})
    EXPECT_THAT(html, HasSubstr(part));
  EXPECT_THAT(html, HasSubstr("loss 2.313"));
  EXPECT_THAT(html, Not(HasSubstr("Error by layer")));
  EXPECT_EQ(conversion_text(report.stages[1]), "") << "an evaluation";
  convert.ffn_errors = {{1, 0.25}, {3, 0.4321}};
  convert.attention_errors = {{2, 0.5}};
  const std::string with_errors = render_html(report);
  for (const char* part :
       {"Error by layer, convert", "<title>FFN: 0.4321 at 3</title>", "<title>attention: 0.5 at 2</title>"})
    EXPECT_THAT(with_errors, HasSubstr(part));

  convert.metrics = {{"mean_scale", 3.1}, {"seconds", 4.1}, {"peak_memory_bytes", 312345678}};
  convert.measured_on = "";
  EXPECT_EQ(conversion_text(convert),
            "convert: without calibration text nothing was measured of the conversion. It took 4.1 s and 312 MB of "
            "memory.");
  EXPECT_THAT(render_html(report), HasSubstr("no text to measure it on"));
  convert.metrics.clear();
  EXPECT_EQ(conversion_text(convert), "") << "it is not done";
  EXPECT_THAT(render_html(report), Not(HasSubstr("Conversions")));
}

TEST(PipelineReportTest, AttentionExpertsStandBesideThoseOfFfns) {
  PipelineReport report = testing::sample_report();
  StageReport& convert = report.stages[0];
  EXPECT_THAT(render_html(report), Not(HasSubstr("ttention expert load")));
  convert.metrics.insert({{"step0_attention_error", 0.25},
                          {"step0_attention_load_min_over_mean", 0.5},
                          {"step0_attention_load_max_over_mean", 1.5},
                          {"step0_attention_dead_expert_fraction", 0.125},
                          {"step0_attention_router_logit_deviation", 0.75},
                          {"step0_attention_visible_keys", 0.625}});
  convert.attention_expert_load = {{}, {30, 10}};
  convert.attention_output_scales = {std::nan(""), 1.25};
  report.models[1].attention_expert_load = {{}, {30, 10}};
  EXPECT_THAT(
      conversion_text(convert),
      HasSubstr("router logits deviate by 1.00; attention error 0.250 in the worst layer; its load 0.50-1.50 of "
                "an even share, 12 % of its experts dead; a token sees 62 % of those before it."));
  const std::string text = render_terminal(report, 400);
  EXPECT_THAT(text, HasSubstr("attention load, layer 1"));
  EXPECT_THAT(text, Not(HasSubstr("attention load, layer 0")));
  EXPECT_THAT(text, HasSubstr("0.50-1.50"));
  const std::string html = render_html(report);
  for (const char* part :
       {"attention 0.250", "attention 12 %", "attention 0.75", "Attention expert load, convert",
        "Attention&#39;s output scale by layer", "Least and greatest attention expert load per layer"})
    EXPECT_THAT(html, HasSubstr(part));
}

TEST(PipelineReportTest, EmptyAndHostileReportsRender) {
  EXPECT_THAT(render_terminal(bare("FAILED"), 10), HasSubstr("x: FAILED"));
  EXPECT_THAT(render_html(bare("FAILED")), HasSubstr("<h1>x</h1>"));
  const std::string html = render_html(testing::hostile_report());
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(render_terminal(testing::hostile_report(), 80), Not(HasSubstr("\x01")));
}

// The pages stay in the build folder for a look in a browser.
TEST(PipelineReportTest, PagesAreWellFormedAndSelfContained) {
  if (std::system("python3 -c pass") != 0) GTEST_SKIP() << "python3 is not installed";
  const std::filesystem::path folder = testing::build_dir() + "/report_samples";
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "sample.html", render_html(testing::sample_report()));
  write_file_atomically(folder / "comparison.html", render_html(testing::sample_comparison()));
  write_file_atomically(folder / "hostile.html", render_html(testing::hostile_report()));
  write_file_atomically(folder / "empty.html", render_html(bare("FAILED")));
  const std::string command = "python3 " + testing::source_dir() + "/tests/report/check_page.py " +
                              (folder / "sample.html").string() + " " + (folder / "comparison.html").string() + " " +
                              (folder / "hostile.html").string() + " " + (folder / "empty.html").string();
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  // A broken page must not pass the checker.
  write_file_atomically(folder / "broken.html",
                        "<!DOCTYPE html><html><body><h1>x</h1><img src=\"http://example.org/x.png\"><p></body></html>");
  EXPECT_NE(std::system(("python3 " + testing::source_dir() + "/tests/report/check_page.py " +
                         (folder / "broken.html").string() + " > /dev/null")
                            .c_str()),
            0);
}

}  // namespace
}  // namespace moe
