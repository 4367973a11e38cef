#include "report/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <regex>

#include "common/error.h"
#include "common/file_io.h"
#include "report/count_parts.h"
#include "report/html_page.h"
#include "report/sample_status.h"
#include "testing/paths.h"

namespace moe {
namespace {

using testing::count;
using ::testing::HasSubstr;
using ::testing::Not;

namespace fs = std::filesystem;

// The document of a pipeline of one stage or gate.
std::string page_of(const std::string& status, bool is_gate, v1::JobState job_state = v1::JOB_STATE_UNSPECIFIED) {
  StatusPage page;
  v1::Pipeline& pipeline = page.pipelines.emplace_back();
  pipeline.set_id("p-1");
  pipeline.set_phase("RUNNING");
  v1::StageState& stage = *pipeline.add_stages();
  stage.set_name("x");
  stage.set_is_gate(is_gate);
  stage.set_status(status);
  stage.set_job_state(job_state);
  return render_status_page(page);
}

TEST(StatusPageTest, LoadsItselfAgainAndSaysWhenItWasDrawn) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_THAT(html, HasSubstr("<meta http-equiv=\"refresh\" content=\"5\">"));
  EXPECT_THAT(html, HasSubstr("As of 2026-12-01 12:00:00 UTC"));
  EXPECT_THAT(html, HasSubstr("1.0.0"));
  // Pages that are files do not.
  EXPECT_THAT(html_page("x", ""), Not(HasSubstr("http-equiv")));
}

TEST(StatusPageTest, StagesAndGatesStandInARow) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_EQ(count(html, "<ol class=\"flow\">"), 5u);
  EXPECT_THAT(html, HasSubstr("<li class=\"good\"><b>convert</b>SUCCEEDED</li>\n"
                              "<li class=\"run\"><b>evaluate-converted</b>RUNNING 25 %</li>\n"
                              "<li class=\"run\"><b>stage1</b>RUNNING 55 %</li>\n"
                              "<li class=\"idle\"><b>evaluate-stage1</b>QUEUED</li>\n"
                              "<li class=\"idle gate\"><b>recovered</b>gate: PENDING</li>\n"
                              "<li class=\"idle\"><b>stage2</b>BLOCKED</li>\n</ol>"));
}

TEST(StatusPageTest, AHeldGateSaysWhatItFoundAndHowToDecide) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_THAT(html, HasSubstr("loss_ratio_to_baseline is 1.41, wanted &lt;= 1.25"));
  EXPECT_THAT(html, HasSubstr("<code>moectl approve tomoe-8-experts-q2w8 --gate recovered</code>"));
  EXPECT_THAT(html, HasSubstr("<code>moectl reject tomoe-8-experts-q2w8 --gate recovered</code>"));
  EXPECT_EQ(count(html, "moectl approve"), 1u) << "only what is held can be approved";
  EXPECT_THAT(html, HasSubstr("decided by ada: known and fine"));
  // Nobody can approve what has ended.
  StatusPage page = testing::sample_status();
  page.pipelines[1].set_phase("CANCELED");
  EXPECT_THAT(render_status_page(page), Not(HasSubstr("moectl approve")));
}

TEST(StatusPageTest, WhatWentWrongOrWaitsSaysSoOnce) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_EQ(count(html, "has no documents"), 1u);
  EXPECT_THAT(html, HasSubstr("<code>moectl retry a-name-of-0p3d</code>"));
  EXPECT_THAT(html, HasSubstr("<code>moectl resume nightly-5c5c</code>"));
  EXPECT_THAT(html, HasSubstr("waits: needs 4 ranks; the largest idle gang has 2"));
  EXPECT_THAT(html, HasSubstr("1 attempt failed since the last new checkpoint: rank 1 was lost (signal 9)"));
  EXPECT_THAT(html, Not(HasSubstr("every stage is done")));
}

TEST(StatusPageTest, JobsAtWorkShowProgressCurveAndLoad) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_EQ(count(html, "<progress "), 2u) << "the queued job is not at work";
  EXPECT_THAT(html, HasSubstr("<progress max=\"220\" value=\"120\""));
  EXPECT_THAT(html, HasSubstr("step 120 of 220 (55 %)"));
  EXPECT_THAT(html, HasSubstr("row 12 of 48 (25 %)"));
  EXPECT_THAT(html, HasSubstr("<b>2.876</b>"));
  EXPECT_THAT(html, HasSubstr("Attention expert load by layer and expert of "));
  EXPECT_THAT(html, HasSubstr("<b>5321</b><span class=\"muted\">tokens/s"));
  EXPECT_THAT(html, HasSubstr("training, attempt 2, gang 3f2a9c1e77b04d12, since 2026-12-01 "));
  EXPECT_EQ(count(html, "aria-label=\"Loss by step of quickstart-7f3k2m9a-stage1\""), 1u);
  EXPECT_EQ(count(html, "<title>layer "), 72u) << "six layers of eight experts, and of attention's four";
}

TEST(StatusPageTest, GangsShowRanksNodesAndWork) {
  const std::string html = render_status_page(testing::sample_status());
  EXPECT_THAT(html, HasSubstr("3f2a9c1e77b04d12<small>ranks 0–1 on node-a</small><small>ranks 2–3 on node-b</small>"
                              "<small>cpu, 1.0.0</small>"));
  EXPECT_THAT(
      html, HasSubstr("<span class=\"badge run\">busy</span></td><td>quickstart-7f3k2m9a-stage1</td><td>2026-12-01 "));
  EXPECT_THAT(html, HasSubstr("<small>rank 0 on node-a</small>"));
  EXPECT_THAT(html, HasSubstr("<span class=\"badge bad\">lost</span>"));
}

TEST(StatusPageTest, AnEmptyPageSaysWhatToDoNext) {
  const std::string html = render_status_page({});
  EXPECT_THAT(html, HasSubstr("No pipeline yet: <code>moectl submit FILE</code>"));
  EXPECT_THAT(html, HasSubstr("No gang yet"));
  EXPECT_THAT(html, HasSubstr("bash deploy/gang.sh --ranks 2"));
  EXPECT_THAT(html, HasSubstr("No gang works on a job now."));
}

TEST(StatusPageTest, FiftyPipelinesAndHowManyMoreThereAre) {
  StatusPage page;
  page.living_pipelines = {{"RUNNING", 3}, {"HELD", 1}};
  page.ended_pipelines = 196;
  for (int i = 0; i < 50; ++i) {
    v1::Pipeline& pipeline = page.pipelines.emplace_back();
    pipeline.set_id(concat("p-", 1000 - i));
    pipeline.set_name(concat("pipeline-", 1000 - i));
    pipeline.set_phase(i < 4 ? "RUNNING" : "SUCCEEDED");
  }
  const std::string html = render_status_page(page);
  EXPECT_EQ(count(html, "<article"), 50u);
  EXPECT_THAT(
      html,
      HasSubstr(
          "4 of 4 that have not ended, 46 of 196 that have; <code>moectl get pipelines --limit 0</code> lists all."));
  EXPECT_THAT(html, HasSubstr("<b>3</b><span class=\"muted\">pipelines running"));
  page.living_pipelines["RUNNING"] = 100;
  EXPECT_THAT(render_status_page(page), HasSubstr("50 of 101 that have not ended, 0 of 196 that have;"));
  page.living_pipelines = {{"RUNNING", 4}};
  page.ended_pipelines = 46;
  EXPECT_THAT(render_status_page(page), Not(HasSubstr("that have not ended")));
}

TEST(StatusPageTest, ManyJobsAtWorkAreLimitedTooAndCountedWhole) {
  StatusPage page;
  for (int i = 0; i < 30; ++i) {
    v1::Job& job = page.jobs.emplace_back();
    job.set_id(concat("job-", i));
    job.set_state(v1::JOB_STATE_RUNNING);
  }
  page.living_jobs = {{"ASSIGNED", 1}, {"QUEUED", 7}, {"RUNNING", 30}, {"STOPPING", 2}};
  const std::string html = render_status_page(page);
  EXPECT_EQ(count(html, "<article"), 20u);
  EXPECT_THAT(html, HasSubstr("20 of 33; <code>moectl get jobs --state assigned,running,stopping --limit 0</code>"));
  EXPECT_THAT(html, HasSubstr("<b>33</b><span class=\"muted\">jobs at work"));
  EXPECT_THAT(html, HasSubstr("<b>7</b><span class=\"muted\">jobs queued"));
}

// Words that a state may be, the class that they get, and that the style gives the class a colour.
TEST(StatusPageTest, EveryStateHasAColour) {
  const std::string style = page_of("PENDING", false);
  const auto expect_class = [&](const std::string& html, const std::string& class_name, const std::string& kind,
                                const std::string& word) {
    EXPECT_THAT(html, HasSubstr(concat("<li class=\"", class_name, kind, "\"><b>x</b>"))) << word;
    EXPECT_TRUE(std::regex_search(style, std::regex(concat("\\.", class_name, " \\{ color: var\\(--\\w+\\)"))))
        << class_name;
  };
  const std::map<std::string, std::string> stages{{"PENDING", "idle"},   {"READY", "idle"}, {"RUNNING", "run"},
                                                  {"SUCCEEDED", "good"}, {"FAILED", "bad"}, {"SKIPPED", "good"}};
  for (const auto& [status, its_class] : stages) expect_class(page_of(status, false), its_class, "", status);
  const std::map<std::string, std::string> gates{{"PENDING", "idle"}, {"PASSED", "good"},   {"WARNED", "wait"},
                                                 {"HELD", "wait"},    {"APPROVED", "good"}, {"FAILED", "bad"}};
  for (const auto& [status, its_class] : gates) expect_class(page_of(status, true), its_class, " gate", status);
  // Jobs of stages that are not done; a state that is added to the schema is shown as well.
  for (int value = v1::JobState_MIN + 1; value <= v1::JobState_MAX; ++value) {
    const auto state = static_cast<v1::JobState>(value);
    const std::string word = v1::JobState_Name(state).substr(std::string("JOB_STATE_").size());
    EXPECT_THAT(page_of("PENDING", false, state), HasSubstr(concat("<b>x</b>", word, "</li>")));
  }
  EXPECT_EQ(state_class("STOPPING"), "wait");
  EXPECT_EQ(state_class("CANCELED"), "bad");
  EXPECT_EQ(state_class("never heard of"), "idle");
}

TEST(StatusPageTest, HostileTextsAreEscaped) {
  const std::string html = render_status_page(testing::hostile_status());
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("\x01")));
  EXPECT_THAT(html, Not(HasSubstr("alert('x')")));
  EXPECT_GT(count(html, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), 30u);
  EXPECT_FALSE(std::regex_search(html, std::regex("\\b(nan|inf)\\b")));
  EXPECT_THAT(html, HasSubstr("<progress max=\"220\" value=\"220\""));
  EXPECT_THAT(html, HasSubstr("<progress max=\"48\" value=\"0\""));
}

TEST(StatusPageTest, PagesAreWellFormedAndSelfContained) {
  if (std::system("python3 -c pass") != 0) GTEST_SKIP() << "python3 is not installed";
  const fs::path folder = testing::build_dir() + "/report_samples";
  fs::create_directories(folder);
  std::string command = "python3 " + testing::source_dir() + "/tests/report/check_page.py";
  for (const auto& [name, page] : std::map<std::string, StatusPage>{
           {"status", testing::sample_status()}, {"status_hostile", testing::hostile_status()}, {"status_empty", {}}}) {
    const fs::path path = folder / (name + ".html");
    write_file_atomically(path, render_status_page(page));
    command += " " + path.string();
  }
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace moe
