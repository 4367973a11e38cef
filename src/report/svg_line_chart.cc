#include "report/svg_line_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "report/axis_ticks.h"
#include "report/svg.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr double kFontSize = 12;
constexpr double kLegendRow = 18;
constexpr size_t kMostPoints = 400;

struct Range {
  double least = std::numeric_limits<double>::infinity();
  double greatest = -std::numeric_limits<double>::infinity();
  bool is_empty() const { return least > greatest; }
  void add(double value) {
    least = std::min(least, value);
    greatest = std::max(greatest, value);
  }
};

// Averages of equal groups of points; a group with a value that cannot be drawn keeps the gap.
ChartSeries thinned(const ChartSeries& series) {
  const size_t n = series.x.size();
  if (n <= kMostPoints || series.is_cloud) return series;
  ChartSeries thin = series;
  thin.x.clear();
  thin.y.clear();
  for (size_t g = 0; g < kMostPoints; ++g) {
    const size_t begin = g * n / kMostPoints, end = (g + 1) * n / kMostPoints;
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) {
      x += series.x[i];
      y += series.y[i];
    }
    thin.x.push_back(x / static_cast<double>(end - begin));
    thin.y.push_back(y / static_cast<double>(end - begin));
  }
  return thin;
}

class Drawing {
 public:
  explicit Drawing(const LineChart& chart) : chart_(chart), svg_(chart.width, chart.height, chart.label) {
    for (const ChartSeries& series : chart.series) {
      MOE_CHECK(series.x.size() == series.y.size(), series.name);
      series_.push_back(thinned(series));
    }
  }

  std::string draw() {
    Range x_range, y_range;
    for (const ChartSeries& series : series_) {
      for (size_t i = 0; i < series.x.size(); ++i) {
        if (!is_drawable(series.x[i], series.y[i])) continue;
        x_range.add(series.x[i]);
        y_range.add(series.y[i]);
      }
    }
    if (x_range.is_empty()) {
      svg_.text(chart_.width / 2, chart_.height / 2, "middle", "no data");
      return svg_.finish();
    }
    x_ = linear_axis(x_range.least, x_range.greatest, 5);
    // The data's own ends: a curve over steps fills the width.
    x_.low = std::min(x_range.least, x_range.greatest - 1e-9);
    x_.high = std::max(x_range.greatest, x_.low + 1e-9);
    std::erase_if(x_.ticks, [&](double tick) { return tick < x_.low - 1e-9 || tick > x_.high + 1e-9; });
    y_ = chart_.log_y ? log_axis(y_range.least, y_range.greatest) : linear_axis(y_range.least, y_range.greatest, 5);
    top_ = draw_legend();
    draw_axes();
    for (const ChartSeries& series : series_) {
      if (series.is_faint) draw_series(series);
    }
    for (const ChartSeries& series : series_) {
      if (!series.is_faint) draw_series(series);
    }
    return svg_.finish();
  }

 private:
  bool is_drawable(double x, double y) const {
    return std::isfinite(x) && std::isfinite(y) && (!chart_.log_y || y > 0);
  }
  double px(double x) const { return left_ + x_.position(x) * (right() - left_); }
  double py(double y) const { return bottom() - y_.position(y) * (bottom() - top_); }
  double right() const { return chart_.width - 10; }
  double bottom() const { return chart_.height - 40; }

  // Returns the height that it takes. Names wrap into as many rows as they need.
  double draw_legend() {
    double x = 10, y = 16;
    for (const ChartSeries& series : series_) {
      if (series.is_faint) continue;
      const double width = 26 + text_width(series.name, kFontSize) + 14;
      if (x > 10 && x + width > chart_.width) {
        x = 10;
        y += kLegendRow;
      }
      const SvgAttributes stroke{{"stroke", series_color(series.color)}, {"stroke-width", "3"}};
      svg_.line(x, y - 4, x + 18, y - 4, stroke);
      svg_.text(x + 24, y, "start", series.name);
      x += width;
    }
    return y + 30;
  }

  void draw_axes() {
    double widest = 0;
    for (const double tick : y_.ticks) widest = std::max(widest, text_width(y_.label(tick), kFontSize));
    left_ = 14 + widest;
    for (const double tick : y_.ticks) {
      const double y = py(tick);
      svg_.line(left_, y, right(), y, {{"stroke", "currentColor"}, {"stroke-opacity", "0.15"}});
      svg_.text(left_ - 6, y + 4, "end", y_.label(tick));
    }
    svg_.line(left_, bottom(), right(), bottom(), {{"stroke", "currentColor"}, {"stroke-opacity", "0.5"}});
    for (const double tick : x_.ticks) {
      const double x = px(tick), label_half = text_width(x_.label(tick), kFontSize) / 2;
      svg_.line(x, bottom(), x, bottom() + 4, {{"stroke", "currentColor"}, {"stroke-opacity", "0.5"}});
      // A label at the very end would leave the drawing.
      const bool is_cut = x + label_half > chart_.width;
      svg_.text(is_cut ? chart_.width - 2 : x, bottom() + 17, is_cut ? "end" : "middle", x_.label(tick));
    }
    svg_.text((left_ + right()) / 2, chart_.height - 6, "middle", chart_.x_title, {{"fill-opacity", "0.7"}});
    svg_.text(6, top_ - 12, "start", chart_.y_title, {{"fill-opacity", "0.7"}, {"font-size", "11"}});
  }

  /// A mark of no length each, in one path.
  void draw_cloud(const ChartSeries& series) {
    std::string path;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (is_drawable(series.x[i], series.y[i]))
        path += concat("M", svg_number(px(series.x[i])), " ", svg_number(py(series.y[i])), "h0");
    }
    if (path.empty()) return;
    svg_.titled_element("path",
                        {{"d", path},
                         {"fill", "none"},
                         {"stroke", series_color(series.color)},
                         {"stroke-width", "4"},
                         {"stroke-opacity", "0.6"},
                         {"stroke-linecap", "round"}},
                        series.name);
  }

  void draw_series(const ChartSeries& series) {
    if (series.is_cloud) return draw_cloud(series);
    std::string path;
    bool pen_down = false;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!is_drawable(series.x[i], series.y[i])) {
        pen_down = false;
        continue;
      }
      path += concat(path.empty() ? "" : " ", pen_down ? "L" : "M", svg_number(px(series.x[i])), " ",
                     svg_number(py(series.y[i])));
      pen_down = true;
    }
    if (path.empty()) return;
    SvgAttributes attributes{{"d", path},
                             {"fill", "none"},
                             {"stroke", series_color(series.color)},
                             {"stroke-width", series.is_faint ? "1" : "2"},
                             {"stroke-linejoin", "round"}};
    if (series.is_faint) attributes.emplace_back("stroke-opacity", "0.35");
    svg_.element("path", attributes);
    if (!series.has_dots) return;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!is_drawable(series.x[i], series.y[i])) continue;
      svg_.titled_element("circle",
                          {{"cx", svg_number(px(series.x[i]))},
                           {"cy", svg_number(py(series.y[i]))},
                           {"r", "3"},
                           {"fill", series_color(series.color)}},
                          concat(series.name, ": ", short_number(series.y[i]), " at ", short_number(series.x[i])));
    }
  }

  const LineChart& chart_;
  SvgWriter svg_;
  std::vector<ChartSeries> series_;
  Axis x_, y_;
  double top_ = 0;
  double left_ = 0;
};

}  // namespace

std::string render_line_chart(const LineChart& chart) {
  return Drawing(chart).draw();
}

std::vector<double> smoothed(const std::vector<double>& values, int64_t reach) {
  // Sums over all values before each one, so that any window is a difference.
  std::vector<double> sums{0}, counts{0};
  for (const double value : values) {
    const bool counts_here = std::isfinite(value);
    sums.push_back(sums.back() + (counts_here ? value : 0));
    counts.push_back(counts.back() + (counts_here ? 1 : 0));
  }
  const auto n = static_cast<int64_t>(values.size());
  std::vector<double> result;
  for (int64_t i = 0; i < n; ++i) {
    // The window shrinks towards the ends and stays centred, so that a slope is not bent there.
    const int64_t side = std::min({reach, i, n - 1 - i});
    const double count = counts[i + side + 1] - counts[i - side];
    result.push_back(count > 0 ? (sums[i + side + 1] - sums[i - side]) / count
                               : std::numeric_limits<double>::quiet_NaN());
  }
  return result;
}

}  // namespace moe
