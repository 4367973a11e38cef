#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <regex>

#include "common/error.h"
#include "common/file_io.h"
#include "report/sample_analysis.h"
#include "report/sample_report.h"
#include "report/sample_status.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

// The pages in a real browser: nothing in its console, nothing wider than a phone. Screenshots stay in the build
// folder.
namespace moe {
namespace {

namespace fs = std::filesystem;

struct Width {
  int css_pixels;
  int height;
};

class BrowserTest : public ::testing::TestWithParam<Width> {
 protected:
  void SetUp() override {
    if (std::system("command -v chromium > /dev/null 2>&1") != 0) GTEST_SKIP() << "chromium is not installed";
    fs::create_directories(screenshots());
  }

  static fs::path screenshots() { return testing::build_dir() + "/screenshots"; }

  // Chromium's windows are at least 500 px wide, headless too; a frame is as narrow as it is told.
  testing::ProcessResult open(const std::string& name, const std::string& html,
                              const std::string& extra_body = "") const {
    const testing::TempDir folder;
    write_file_atomically(folder / "page.html", html);
    const Width width = GetParam();
    write_file_atomically(
        folder / "frame.html",
        concat("<!DOCTYPE html><html><body style=\"margin:0\"><iframe id=\"f\" src=\"page.html\" width=\"",
               width.css_pixels, "\" height=\"", width.height, "\" style=\"border:0\"></iframe>", extra_body,
               "</body></html>"));
    const fs::path image = screenshots() / concat(name, "_", width.css_pixels, ".png");
    fs::remove(image);
    const testing::ProcessResult result = testing::run_process(
        {"timeout", "60", "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--allow-file-access-from-files", "--hide-scrollbars", "--virtual-time-budget=2000",
         concat("--user-data-dir=", (folder / "profile").string()), concat("--screenshot=", image.string()),
         concat("--window-size=", std::max(500, width.css_pixels), ",", width.height),
         concat("file://", (folder / "frame.html").string())});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(fs::exists(image) && fs::file_size(image) > 5000) << image << "\n" << result.err;
    return result;
  }
};

std::string console_lines(const std::string& log) {
  std::string lines;
  static const std::regex kConsole("[^\n]*CONSOLE[^\n]*");
  for (std::sregex_iterator found(log.begin(), log.end(), kConsole), end; found != end; ++found)
    lines += found->str() + "\n";
  return lines;
}

// The frame's own page measures the page inside it and reports to the console.
constexpr char kMeasure[] = R"html(<script>
onload = () => {
  const page = document.getElementById("f").contentDocument.documentElement;
  console.log("measured " + page.scrollWidth + " of " + page.clientWidth + " px, " + page.scrollHeight + " high");
};
</script>)html";

void expect_quiet_and_fitting(const testing::ProcessResult& result, const std::string& what) {
  const std::string console = console_lines(result.err);
  std::smatch measured;
  ASSERT_TRUE(std::regex_search(console, measured, std::regex("measured (\\d+) of (\\d+) px, (\\d+) high")))
      << result.err;
  std::cout << what << ": " << measured[0] << "\n";
  EXPECT_LE(std::stoi(measured[1]), std::stoi(measured[2])) << what << " scrolls sideways";
  EXPECT_GT(std::stoi(measured[3]), 200) << what;
  // Our own measurement is the only line.
  EXPECT_EQ(std::count(console.begin(), console.end(), '\n'), 1) << what << " writes to the console:\n" << console;
}

TEST_P(BrowserTest, TheStatusPageIsQuietAndFits) {
  const std::string html = render_status_page(testing::sample_status());
  expect_quiet_and_fitting(open("status", html, kMeasure), "status page");
  expect_quiet_and_fitting(open("status_empty", render_status_page({}), kMeasure), "empty status page");
}

TEST_P(BrowserTest, HostileTextsRunNothingAndFit) {
  expect_quiet_and_fitting(open("status_hostile", render_status_page(testing::hostile_status()), kMeasure),
                           "hostile status page");
}

TEST_P(BrowserTest, TheReportIsQuietAndFits) {
  expect_quiet_and_fitting(open("report", render_html(testing::sample_report()), kMeasure), "report");
  expect_quiet_and_fitting(open("analysis", render_analysis_page(testing::sample_analysis()), kMeasure), "analysis");
  expect_quiet_and_fitting(open("comparison", render_html(testing::sample_comparison()), kMeasure), "comparison");
}

// Otherwise silence would prove nothing.
TEST_P(BrowserTest, AConsoleErrorIsSeen) {
  const testing::ProcessResult result =
      open("broken", "<!DOCTYPE html><title>x</title><h1>broken</h1><script>nothing.at.all()</script>");
  EXPECT_NE(console_lines(result.err).find("nothing is not defined"), std::string::npos) << result.err;
}

INSTANTIATE_TEST_SUITE_P(Widths, BrowserTest, ::testing::Values(Width{390, 4000}, Width{1200, 2600}),
                         [](const auto& tested) { return concat("px", tested.param.css_pixels); });

}  // namespace
}  // namespace moe
