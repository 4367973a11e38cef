#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moe {

struct GapChartDot {
  double value = 0;
  double spread = 0;  ///< a bar from value - spread to value + spread, where it is above 0
};

/// A row: a hollow dot where it began, a full one where it ended, and a line between. Either may be missing.
struct GapChartRow {
  std::string name;
  std::optional<GapChartDot> before{};
  std::optional<GapChartDot> after{};
};

struct GapChart {
  /// Read out by screen readers.
  std::string label;
  std::string x_title{};
  std::vector<GapChartRow> rows{};
  /// A line from top to bottom, with its name; values are read against it.
  std::optional<double> reference{};
  std::string reference_name{};
};

/// The chart as one <svg> element, as high as its rows need. Values that are not finite are left out; without any it
/// says "no data".
std::string render_gap_chart(const GapChart& chart);

}  // namespace moe
