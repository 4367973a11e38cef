#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

struct ChartSeries {
  std::string name;
  /// Same length; points that are not finite (or not positive on a log axis) break the line.
  std::vector<double> x;
  std::vector<double> y;
  /// Number of its colour; two series may share one.
  size_t color = 0;
  /// Drawn thin and pale, without a place in the legend: the raw values behind a smoothed line.
  bool is_faint = false;
  /// A dot at every point: for few points.
  bool has_dots = false;
  /// Points without a line, in any order and number; on hover they say the series alone.
  bool is_cloud = false;
};

struct LineChart {
  /// Read out by screen readers, for example "Loss by step in stage1".
  std::string label;
  std::string x_title;
  std::string y_title;
  std::vector<ChartSeries> series;
  bool log_y = false;
  double width = 380;
  double height = 260;
};

/// The chart as one <svg> element. Long lines are averaged down to about 400 points. Without any point it says "no
/// data".
std::string render_line_chart(const LineChart& chart);

/// Mean of the up to `reach` values on each side and the value itself; values that are not finite are passed over.
std::vector<double> smoothed(const std::vector<double>& values, int64_t reach);

}  // namespace moe
