#include "report/analysis_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "common/file_io.h"
#include "report/sample_analysis.h"
#include "testing/paths.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

TEST(AnalysisPageTest, HasEverySectionAndTheBaselineBesideTheModel) {
  const std::string html = render_analysis_page(testing::sample_analysis());
  EXPECT_THAT(html, AllOf(HasSubstr("<h1>Analysis: trained</h1>"), HasSubstr("<h2>Routing</h2>"),
                          HasSubstr("<h2>Routing similarity</h2>"), HasSubstr("worst load over mean")));
  EXPECT_THAT(html, HasSubstr("<dt>no neuron_overlap</dt><dd>there is no conversion.safetensors</dd>"));
  EXPECT_THAT(html, HasSubstr("<title>layer 2, expert 5: 0.00 × an even share</title>"));
  EXPECT_LT(html.find("Load of the experts, all text</figcaption>"),
            html.find("Load of the experts, all text – baseline</figcaption>"));
  EXPECT_THAT(html, Not(HasSubstr("Entropy of the router (nats) – baseline")));
}

TEST(AnalysisPageTest, EveryDrawingIsAFile) {
  EXPECT_THAT(analysis_drawings(testing::sample_analysis()),
              ElementsAre(Key("routing_entropy.svg"), Key("routing_load.svg"), Key("routing_load_baseline.svg"),
                          Key("routing_similarity_domains.svg"), Key("routing_similarity_shares.svg")));
}

TEST(AnalysisPageTest, LinesRunOverTheNumbersOfTheirColumns) {
  const std::string svg = render_figure({.title = "x",
                                         .form = Figure::Form::kLines,
                                         .column_title = "layer",
                                         .rows = {"a"},
                                         .columns = {"3", "7"},
                                         .values = {{0.5, 2}}});
  EXPECT_THAT(svg, AllOf(HasSubstr("<title>a: 0.5 at 3</title>"), HasSubstr("<title>a: 2 at 7</title>")));
}

// What would have a dot at each of many columns is a plain line, and what is 0 has no place on a logarithmic axis.
TEST(AnalysisPageTest, LinesOfManyColumnsHaveNoDotsAndMayBeLogarithmic) {
  Figure figure{.title = "x", .form = Figure::Form::kLines, .is_log = true, .rows = {"a"}};
  figure.values.emplace_back();
  for (int i = 0; i < 100; ++i) {
    figure.columns.push_back(std::to_string(i));
    figure.values[0].push_back(i == 50 ? 0 : 1 + i);
  }
  const std::string svg = render_figure(figure);
  EXPECT_THAT(svg, Not(HasSubstr("<circle")));
  const size_t path = svg.find(" d=\"M");
  ASSERT_NE(path, std::string::npos);
  EXPECT_NE(svg.find(" M", path), std::string::npos) << "a gap at 0";
}

TEST(AnalysisPageTest, APointANumberAndAColourARow) {
  const std::string svg = render_figure({.title = "tokens",
                                         .form = Figure::Form::kScatter,
                                         .unit = "second",
                                         .column_title = "first",
                                         .rows = {"a & b", "c"},
                                         .values = {std::vector<double>(500, 1), {0, 2}},
                                         .x = {std::vector<double>(500, 3), {0, 4}}});
  EXPECT_THAT(svg, AllOf(HasSubstr("aria-label=\"tokens\""), HasSubstr("<title>a &amp; b</title>"),
                         HasSubstr("<title>c</title>"), HasSubstr("var(--series-2"), HasSubstr(">c</text>")));
  size_t points = 0;
  for (size_t at = svg.find("h0"); at != std::string::npos; at = svg.find("h0", at + 1)) ++points;
  EXPECT_EQ(points, 502U) << "none is averaged with another";
  EXPECT_THAT(svg, Not(HasSubstr("<circle")));
}

TEST(AnalysisPageTest, PagesAreWellFormedAndSelfContained) {
  if (std::system("python3 -c pass") != 0) GTEST_SKIP() << "python3 is not installed";
  const std::filesystem::path folder = testing::build_dir() + "/report_samples";
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "analysis.html", render_analysis_page(testing::sample_analysis()));
  write_file_atomically(folder / "analysis_hostile.html",
                        render_analysis_page(testing::sample_analysis("<script>\"&'\n\x01 <b>\xff")));
  write_file_atomically(folder / "analysis_empty.html",
                        render_analysis_page({.title = "x", .facts = {}, .sections = {}}));
  const std::string command = "python3 " + testing::source_dir() + "/tests/report/check_page.py " +
                              (folder / "analysis.html").string() + " " + (folder / "analysis_hostile.html").string() +
                              " " + (folder / "analysis_empty.html").string();
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace moe
