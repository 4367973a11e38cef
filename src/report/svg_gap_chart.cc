#include "report/svg_gap_chart.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/error.h"
#include "report/axis_ticks.h"
#include "report/svg.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr double kChartWidth = 760;
constexpr double kRowHeight = 26;
constexpr double kTop = 44;     // legend
constexpr double kBottom = 44;  // ticks and title
constexpr double kNameFontSize = 12;
constexpr int kLongestName = 34;

std::optional<double> drawable(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<GapChartDot> drawable(const std::optional<GapChartDot>& dot) {
  return dot && std::isfinite(dot->value) && std::isfinite(dot->spread) ? dot : std::nullopt;
}

class GapDrawing {
 public:
  explicit GapDrawing(const GapChart& chart)
      : chart_(chart),
        height_(kTop + kRowHeight * static_cast<double>(chart.rows.size()) + kBottom),
        svg_(kChartWidth, height_, chart.label) {}

  std::string draw() {
    std::vector<double> values;
    double widest = 0;
    for (const GapChartRow& row : chart_.rows) {
      for (const auto& dot : {drawable(row.before), drawable(row.after)}) {
        if (dot) values.insert(values.end(), {dot->value - dot->spread, dot->value + dot->spread});
      }
      widest = std::max(widest, text_width(shown_name(row), kNameFontSize));
    }
    if (values.empty()) {
      svg_.text(kChartWidth / 2, height_ / 2, "middle", "no data");
      return svg_.finish();
    }
    if (const auto reference = drawable(chart_.reference)) values.push_back(*reference);
    const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
    axis_ = linear_axis(*least, *greatest, 6);
    left_ = 14 + widest;
    draw_frame();
    for (size_t i = 0; i < chart_.rows.size(); ++i) draw_row(chart_.rows[i], row_y(i));
    return svg_.finish();
  }

 private:
  static std::string shown_name(const GapChartRow& row) { return shorten(clean_utf8(row.name), kLongestName); }
  double px(double value) const { return left_ + axis_.position(value) * (kChartWidth - 20 - left_); }
  double bottom() const { return height_ - kBottom; }
  static double row_y(size_t row) { return kTop + kRowHeight * (static_cast<double>(row) + 0.5); }

  void draw_frame() {
    for (const double tick : axis_.ticks) {
      svg_.line(px(tick), kTop, px(tick), bottom(), {{"stroke", "currentColor"}, {"stroke-opacity", "0.15"}});
      svg_.text(px(tick), bottom() + 17, "middle", axis_.label(tick));
    }
    svg_.text((left_ + kChartWidth - 20) / 2, height_ - 6, "middle", chart_.x_title, {{"fill-opacity", "0.7"}});
    dot(left_ + 6, 14, false, "as converted");
    svg_.text(left_ + 16, 18, "start", "as converted");
    dot(left_ + 120, 14, true, "after training");
    svg_.text(left_ + 130, 18, "start", "after training");
    const auto reference = drawable(chart_.reference);
    if (!reference) return;
    const double x = px(*reference);
    svg_.line(x, kTop - 6, x, bottom(),
              {{"stroke", series_color(1)}, {"stroke-width", "2"}, {"stroke-dasharray", "4 3"}});
    svg_.text(x, kTop - 10, x > kChartWidth - 120 ? "end" : "start", chart_.reference_name,
              {{"fill", series_color(1)}});
  }

  void draw_row(const GapChartRow& row, double y) {
    svg_.text(left_ - 8, y + 4, "end", shown_name(row));
    const auto before = drawable(row.before), after = drawable(row.after);
    if (before && after) {
      svg_.line(px(before->value), y, px(after->value), y,
                {{"stroke", series_color(0)}, {"stroke-width", "2"}, {"stroke-opacity", "0.5"}});
    }
    if (before) draw_dot(*before, y, false, concat(row.name, ", as converted: "));
    if (after) draw_dot(*after, y, true, concat(row.name, ", after training: "));
  }

  void draw_dot(const GapChartDot& at, double y, bool is_full, const std::string& title) {
    if (at.spread > 0) {
      svg_.line(px(at.value - at.spread), y, px(at.value + at.spread), y,
                {{"stroke", series_color(0)}, {"stroke-width", "8"}, {"stroke-opacity", "0.35"}});
    }
    dot(px(at.value), y, is_full,
        concat(title, fixed(at.value, 3), at.spread > 0 ? concat(" ± ", fixed(at.spread, 3)) : std::string()));
  }

  void dot(double x, double y, bool is_full, const std::string& title) {
    svg_.titled_element("circle",
                        {{"cx", svg_number(x)},
                         {"cy", svg_number(y)},
                         {"r", "5"},
                         {"stroke", series_color(0)},
                         {"stroke-width", "2"},
                         {"fill", is_full ? series_color(0) : "none"}},
                        title);
  }

  const GapChart& chart_;
  double height_, left_ = 0;
  Axis axis_;
  SvgWriter svg_;
};

}  // namespace

std::string render_gap_chart(const GapChart& chart) {
  return GapDrawing(chart).draw();
}

}  // namespace moe
