#include "report/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "report/axis_ticks.h"
#include "report/count_parts.h"
#include "report/svg_gap_chart.h"
#include "report/svg_heatmap.h"
#include "report/svg_line_chart.h"

namespace moe {
namespace {

using testing::count;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pointwise;

TEST(AxisTest, TicksAreRoundAndCoverTheData) {
  const Axis axis = linear_axis(1.87, 5.61, 5);
  EXPECT_THAT(axis.ticks, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(axis.low, 1);
  EXPECT_EQ(axis.high, 6);
  EXPECT_EQ(axis.label(2), "2");
  EXPECT_THAT(linear_axis(0, 220, 5).ticks, ElementsAre(0, 50, 100, 150, 200, 250));
  EXPECT_EQ(linear_axis(0.1, 0.34, 5).label(0.15), "0.15");
  EXPECT_EQ(linear_axis(0, 250000, 5).label(50000), "50k");
  EXPECT_DOUBLE_EQ(linear_axis(0, 10, 5).position(2.5), 0.25);
}

TEST(AxisTest, AFlatOrReversedRange) {
  const Axis axis = linear_axis(3, 3, 5);
  EXPECT_LT(axis.low, 3);
  EXPECT_GT(axis.high, 3);
  EXPECT_LT(linear_axis(0, 0, 5).low, 0);
  EXPECT_THROW(linear_axis(2, 1, 5), Internal);
  EXPECT_THROW(linear_axis(0, NAN, 5), Internal);
}

// Whatever the range: few ticks, in order, and the data inside.
TEST(AxisTest, AnyRangeGetsAFewTicks) {
  for (double low = -1e6; low < 1e6; low = low < -1e-3 ? low / 7 : low < 0 ? 1e-4 : low * 7) {
    for (const double size : {1e-3, 0.7, 13.0, 4.2e5}) {
      const Axis axis = linear_axis(low, low + size, 5);
      EXPECT_GE(axis.ticks.size(), 2u);
      EXPECT_LE(axis.ticks.size(), 9u) << low << " " << size;
      EXPECT_LE(axis.low, low + 1e-9 * std::abs(low) + 1e-9);
      EXPECT_GE(axis.high, low + size - 1e-9 * std::abs(low) - 1e-9);
    }
  }
}

TEST(AxisTest, LogTicks) {
  EXPECT_THAT(log_axis(1.5, 12).ticks, ElementsAre(2, 5, 10));
  EXPECT_THAT(log_axis(1, 1e6).ticks, Pointwise(DoubleEq(), std::vector<double>{1, 10, 100, 1e3, 1e4, 1e5, 1e6}));
  EXPECT_NEAR(log_axis(1, 100).position(10), 0.5, 1e-12);
}

TEST(SvgTest, EscapesTextAndAttributes) {
  SvgWriter svg(10, 10, "a \"b\" <c>");
  svg.text(1, 2, "start", "x < y & z");
  const std::string drawing = svg.finish();
  EXPECT_THAT(drawing, HasSubstr("aria-label=\"a &quot;b&quot; &lt;c&gt;\""));
  EXPECT_THAT(drawing, HasSubstr(">x &lt; y &amp; z</text>"));
  EXPECT_EQ(svg_number(1.5), "1.5");
  EXPECT_EQ(svg_number(-0.001), "0");
  EXPECT_EQ(svg_number(120), "120");
  EXPECT_THROW(svg_number(NAN), Internal);
}

TEST(LineChartTest, DrawsEverySeriesAndItsLegend) {
  LineChart chart{"losses",
                  "step",
                  "loss",
                  {{"train", {1, 2, 3}, {3, 2, 1}, 0, false, false}, {"valid", {1, 3}, {3, 1.5}, 1, false, true}}};
  const std::string svg = render_line_chart(chart);
  EXPECT_EQ(count(svg, "<path"), 2u);
  EXPECT_EQ(count(svg, "<circle"), 2u);
  EXPECT_THAT(svg, HasSubstr(">train</text>"));
  EXPECT_THAT(svg, HasSubstr("valid: 1.5 at 3"));
}

TEST(LineChartTest, GapsBreakTheLineAndLogSkipsWhatIsNotPositive) {
  LineChart chart{"x", "", "", {{"a", {1, 2, 3, 4, 5}, {1, NAN, 2, 0, 3}, 0, false, false}}};
  EXPECT_EQ(count(render_line_chart(chart), "M"), 2u);
  chart.log_y = true;
  EXPECT_EQ(count(render_line_chart(chart), "M"), 3u);
}

TEST(LineChartTest, DegenerateData) {
  EXPECT_THAT(render_line_chart({"x", "", "", {}}), HasSubstr("no data"));
  EXPECT_THAT(render_line_chart({"x", "", "", {{"a", {1}, {NAN}, 0, false, false}}}), HasSubstr("no data"));
  EXPECT_THAT(render_line_chart({"x", "", "", {{"a", {5}, {2}, 0, false, true}}}), Not(HasSubstr("nan")));
  EXPECT_THROW(render_line_chart({"x", "", "", {{"a", {1, 2}, {1}, 0, false, false}}}), Internal);
}

TEST(LineChartTest, LongSeriesAreThinned) {
  ChartSeries series{"a", {}, {}, 0, false, false};
  for (int i = 0; i < 100000; ++i) {
    series.x.push_back(i);
    series.y.push_back(std::sin(i * 1e-4));
  }
  EXPECT_LT(render_line_chart({"x", "", "", {series}}).size(), 12000u);
}

TEST(SmoothedTest, ACentredMeanThatPassesNanOver) {
  EXPECT_THAT(smoothed({2, 2, NAN, 2}, 3), ElementsAre(DoubleEq(2), DoubleEq(2), DoubleEq(2), DoubleEq(2)));
  EXPECT_TRUE(std::isnan(smoothed({NAN, 1}, 3)[0]));
  // By hand: ends stay, then (1+2+6)/3 and (1+2+6+3+8)/5.
  EXPECT_THAT(smoothed({1, 2, 6, 3, 8}, 2),
              ElementsAre(DoubleEq(1), DoubleEq(3), DoubleEq(4), DoubleEq(17.0 / 3), DoubleEq(8)));
  // A straight line stays what it is.
  EXPECT_THAT(smoothed({1, 2, 3, 4, 5, 6}, 2), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_TRUE(smoothed({}, 2).empty());
}

TEST(GapChartTest, DrawsWhatIsThereAndSaysItsValue) {
  const std::string svg = render_gap_chart({.label = "losses",
                                            .x_title = "loss",
                                            .rows = {{"a & b", GapChartDot{6.0}, GapChartDot{3.5}},
                                                     {"untrained", GapChartDot{5.0}, {}},
                                                     {"lost", {}, GapChartDot{NAN}}},
                                            .reference = 2.5,
                                            .reference_name = "dense 2.500"});
  EXPECT_THAT(svg, HasSubstr("a &amp; b, as converted: 6.000"));
  EXPECT_THAT(svg, HasSubstr("a &amp; b, after training: 3.500"));
  EXPECT_THAT(svg, HasSubstr("untrained, as converted: 5.000"));
  EXPECT_THAT(svg, HasSubstr("dense 2.500"));
  EXPECT_THAT(svg, ::testing::Not(HasSubstr("nan")));
  EXPECT_THAT(render_gap_chart({.label = "x", .rows = {{"lost", {}, GapChartDot{NAN}}}}), HasSubstr("no data"));
}

TEST(HeatmapTest, AmountsAndSharesHaveTheirOwnScales) {
  Heatmap map{.label = "similarity",
              .row_title = "domain",
              .column_title = "domain",
              .rows = {"a & b", "c"},
              .columns = {"a & b", "c"},
              .values = {{1, -0.25}, {-0.25, NAN}},
              .scale = Figure::Scale::kAmount};
  const std::string amounts = render_heatmap(map);
  EXPECT_THAT(amounts, HasSubstr("<title>domain a &amp; b, domain c: -0.25</title>"));
  EXPECT_EQ(count(amounts, "<title>"), 3u) << "what is no number has no cell";
  EXPECT_THAT(amounts, HasSubstr(">0.375</text>")) << "the middle of the legend";
  EXPECT_THAT(amounts, Not(HasSubstr("nan")));
  map.scale = Figure::Scale::kShare;
  map.values = {{0.5, 0}, {0, 0.5}};
  map.unit = "of all";
  const std::string shares = render_heatmap(map);
  EXPECT_THAT(shares, HasSubstr("<title>domain c, domain c: 0.50 of all</title>"));
  EXPECT_THAT(shares, HasSubstr(">1</text>")) << "its legend ends at 1";
  EXPECT_THAT(render_heatmap({.label = "empty"}), HasSubstr("</svg>"));
  EXPECT_THROW(render_heatmap({.label = "x", .rows = {"a"}}), Internal);
}

TEST(HeatmapTest, CountsAreWrittenAsWholeNumbers) {
  const std::string svg = render_heatmap({.label = "counts",
                                          .row_title = "expert",
                                          .column_title = "expert",
                                          .rows = {"0"},
                                          .columns = {"0", "1"},
                                          .values = {{3, 12345}},
                                          .scale = Figure::Scale::kCount,
                                          .unit = "tokens"});
  EXPECT_THAT(svg, HasSubstr("<title>expert 0, expert 1: 12345 tokens</title>"));
  EXPECT_THAT(svg, HasSubstr(">3</text>"));
  EXPECT_THAT(svg, HasSubstr(">12345</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("3.00")));
}

TEST(HeatmapTest, EveryCellSaysItsValue) {
  EXPECT_THAT(relative_load({1, 3, 0, 0}), ElementsAre(1, 3, 0, 0));
  EXPECT_THAT(relative_load({0, 0}), ElementsAre(0, 0));
  const std::string svg = render_load_heatmap({"load", {{10, 30}, {0, 0}, {5, 5, 5}}});
  EXPECT_THAT(svg, HasSubstr("<title>layer 0, expert 1: 1.50 × an even share</title>"));
  EXPECT_THAT(svg, HasSubstr("<title>layer 1, expert 0: 0.00 × an even share</title>"));
  EXPECT_THAT(svg, HasSubstr("<title>layer 2, expert 2: 1.00 × an even share</title>"));
  EXPECT_EQ(count(svg, "<title>"), 7u);
}

/// A dense layer has no row, and the others keep their numbers.
TEST(HeatmapTest, LayersWithoutExpertsHaveNoRow) {
  const std::string svg = render_load_heatmap({"load", {{}, {1, 3}, {}, {}, {2, 2}}});
  EXPECT_EQ(count(svg, "<title>"), 4u);
  EXPECT_THAT(svg, HasSubstr("<title>layer 1, expert 1: 1.50 × an even share</title>"));
  EXPECT_THAT(svg, HasSubstr("<title>layer 4, expert 0: 1.00 × an even share</title>"));
  EXPECT_THAT(svg, HasSubstr("text-anchor=\"end\" font-size=\"11\">4</text>")) << "the label of a row";
  for (const char* dense : {"0", "2", "3"})
    EXPECT_THAT(svg, Not(HasSubstr(std::string("text-anchor=\"end\" font-size=\"11\">") + dense + "</text>")));
}

TEST(HeatmapTest, ManyLayersAndExpertsStillFit) {
  const std::string svg =
      render_load_heatmap({"load", std::vector<std::vector<double>>(48, std::vector<double>(128, 1.0))});
  EXPECT_EQ(count(svg, "<title>"), 48u * 128u);
  EXPECT_THAT(render_load_heatmap({"load", {}}), HasSubstr("<svg"));
}

}  // namespace
}  // namespace moe
