#include "report/svg_heatmap.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "report/svg.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr double kLabelSize = 11;
constexpr double kHeatmapTop = 36;
constexpr double kLegendHeight = 46;
constexpr int kLongestLabel = 18;
// Space around a cell, which its outline needs too.
constexpr double kInset = 0.75;
// A column's name is written across where it is short.
constexpr double kNameRoom = 20;

// -1 at a quarter of the even share and below, 0 at the even share, 1 at four times and above.
double color_position(double relative) {
  return relative <= 0 ? -1 : std::clamp(std::log2(relative) / 2, -1.0, 1.0);
}

SvgAttributes even_share_fill(double relative) {
  // A dead expert is no matter of degree: an outline instead of a colour.
  if (relative <= 0) return {{"fill", "none"}, {"stroke", "var(--bad, #c0262d)"}, {"stroke-width", "1.5"}};
  const double position = color_position(relative);
  return {{"fill", position < 0 ? "var(--cold, #0072b2)" : "var(--hot, #d55e00)"},
          {"fill-opacity", svg_number(0.04 + 0.86 * std::abs(position))}};
}

SvgAttributes amount_fill(double share) {
  return {{"fill", "var(--hot, #d55e00)"}, {"fill-opacity", svg_number(0.04 + 0.86 * std::clamp(share, 0.0, 1.0))}};
}

class HeatmapDrawing {
 public:
  explicit HeatmapDrawing(const Heatmap& heatmap) : map_(heatmap), left_(left_of(heatmap)) {
    size_t most = std::max<size_t>(1, map_.columns.size());
    for (const std::vector<double>& row : map_.values) {
      most = std::max(most, row.size());
      for (const double value : row) {
        if (!std::isfinite(value)) continue;
        least_ = std::min(least_, value);
        greatest_ = std::max(greatest_, value);
      }
    }
    if (map_.scale == Figure::Scale::kShare) greatest_ = 1;
    cell_width_ = (map_.width - left_ - 6) / static_cast<double>(most);
    cell_height_ = map_.rows.size() > 24 ? 12 : 22;
    bottom_ = kHeatmapTop + cell_height_ * static_cast<double>(map_.rows.size());
  }

  std::string draw() {
    SvgWriter svg(map_.width, bottom_ + kLegendHeight, map_.label);
    draw_names(svg);
    for (size_t row = 0; row < map_.values.size(); ++row) {
      for (size_t column = 0; column < map_.values[row].size(); ++column) {
        if (std::isfinite(map_.values[row][column])) draw_cell(svg, row, column);
      }
    }
    if (map_.scale == Figure::Scale::kEvenShare) {
      draw_legend(svg, {0, 0.25, 0.5, 1, 2, 4}, {"0", "¼", "½", "1", "2", "4+"});
    } else {
      const double middle = (least_ + greatest_) / 2;
      draw_legend(svg, {least_, middle, greatest_},
                  {short_number(least_), short_number(middle), short_number(greatest_)});
    }
    return svg.finish();
  }

 private:
  static double left_of(const Heatmap& map) {
    double widest = text_width(map.row_title, kLabelSize) - 14;
    for (const std::string& name : map.rows)
      widest = std::max(widest, text_width(shorten(name, kLongestLabel), kLabelSize));
    return std::max(34.0, widest + 14);
  }

  bool is_amount() const { return map_.scale == Figure::Scale::kAmount || map_.scale == Figure::Scale::kCount; }

  SvgAttributes fill_of(double value) const {
    if (map_.scale == Figure::Scale::kEvenShare) return even_share_fill(value);
    return amount_fill(greatest_ > least_ ? (value - least_) / (greatest_ - least_) : 0);
  }

  /// On hover.
  std::string text_of(double value) const {
    if (map_.scale == Figure::Scale::kCount) return fixed(value, 0);
    return map_.scale == Figure::Scale::kAmount ? short_number(value) : fixed(value, 2);
  }

  /// In a cell: of amounts three digits, so that all of a map are of about one length.
  std::string cell_text(double value) const {
    if (map_.scale != Figure::Scale::kAmount) return text_of(value);
    const double size = std::max(std::abs(least_), std::abs(greatest_));
    return fixed(value, size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0);
  }

  void draw_names(SvgWriter& svg) const {
    svg.text(left_ + (map_.width - left_) / 2, 12, "middle", map_.column_title, {{"fill-opacity", "0.7"}});
    svg.text(4, 28, "start", map_.row_title, {{"font-size", "11"}, {"fill-opacity", "0.7"}});
    // Every n-th column and row is named, so that names do not touch; long ones are cut to their column.
    const auto stride = static_cast<size_t>(std::ceil(kNameRoom / cell_width_));
    const int room = std::max(3, static_cast<int>(cell_width_ * static_cast<double>(stride) / text_width("x", 11)) - 1);
    for (size_t column = 0; column < map_.columns.size(); column += stride) {
      svg.text(left_ + (static_cast<double>(column) + 0.5) * cell_width_, 28, "middle",
               shorten(map_.columns[column], room), {{"font-size", "11"}});
    }
    const size_t row_stride = cell_height_ < 14 ? 2 : 1;
    for (size_t row = 0; row < map_.rows.size(); row += row_stride) {
      const double y = kHeatmapTop + cell_height_ * static_cast<double>(row);
      svg.text(left_ - 6, y + cell_height_ / 2 + 4, "end", shorten(map_.rows[row], kLongestLabel),
               {{"font-size", "11"}});
    }
  }

  void draw_cell(SvgWriter& svg, size_t row, size_t column) const {
    const double value = map_.values[row][column];
    const double x = left_ + cell_width_ * static_cast<double>(column),
                 y = kHeatmapTop + cell_height_ * static_cast<double>(row);
    SvgAttributes attributes{{"x", svg_number(x + kInset)},
                             {"y", svg_number(y + kInset)},
                             {"width", svg_number(std::max(0.5, cell_width_ - 2 * kInset))},
                             {"height", svg_number(cell_height_ - 2 * kInset)}};
    const SvgAttributes fill = fill_of(value);
    attributes.insert(attributes.end(), fill.begin(), fill.end());
    const std::string column_name = column < map_.columns.size() ? map_.columns[column] : std::to_string(column);
    const std::string text = cell_text(value);
    svg.titled_element("rect", attributes,
                       concat(map_.row_title, " ", map_.rows[row], ", ", map_.column_title, " ", column_name, ": ",
                              text_of(value), map_.unit.empty() ? "" : " " + map_.unit));
    if (cell_width_ >= std::max(30.0, text_width(text, kLabelSize)) && cell_height_ >= 16) {
      svg.text(x + cell_width_ / 2, y + cell_height_ / 2 + 4, "middle", text,
               {{"font-size", "11"}, {"pointer-events", "none"}});
    }
  }

  void draw_legend(SvgWriter& svg, const std::vector<double>& stops, const std::vector<std::string>& names) const {
    if (is_amount() && !std::isfinite(greatest_)) return;
    const double top = bottom_ + 12;
    const double widest = map_.scale == Figure::Scale::kEvenShare ? 38.0 : 64.0;
    const double cell = std::min(widest, (map_.width - left_ - 10) / static_cast<double>(stops.size()));
    for (size_t i = 0; i < stops.size(); ++i) {
      SvgAttributes attributes{{"x", svg_number(left_ + static_cast<double>(i) * cell + 0.75)},
                               {"y", svg_number(top)},
                               {"width", svg_number(cell - 2.5)},
                               {"height", "10"}};
      const SvgAttributes fill = fill_of(stops[i]);
      attributes.insert(attributes.end(), fill.begin(), fill.end());
      svg.element("rect", attributes);
      svg.text(left_ + (static_cast<double>(i) + 0.5) * cell, top + 23, "middle", names[i], {{"font-size", "11"}});
    }
    const double end = static_cast<double>(stops.size()) * cell;
    if (!map_.unit.empty() && map_.width - left_ - end > 15 + text_width(map_.unit, kLabelSize)) {
      svg.text(left_ + end + 8, top + 10, "start", map_.unit, {{"font-size", "11"}, {"fill-opacity", "0.7"}});
    }
  }

  const Heatmap& map_;
  double left_;
  // An amount is measured from 0 unless it goes below.
  double least_ = 0, greatest_ = -std::numeric_limits<double>::infinity();
  double cell_width_ = 0, cell_height_ = 0, bottom_ = 0;
};

}  // namespace

std::vector<double> relative_load(const std::vector<double>& layer) {
  double sum = 0;
  for (const double load : layer) sum += std::isfinite(load) ? load : 0;
  std::vector<double> relative;
  for (const double load : layer) {
    relative.push_back(sum > 0 && std::isfinite(load) ? load / sum * static_cast<double>(layer.size()) : 0);
  }
  return relative;
}

std::string render_heatmap(const Heatmap& heatmap) {
  MOE_CHECK(heatmap.rows.size() == heatmap.values.size(), heatmap.label);
  return HeatmapDrawing(heatmap).draw();
}

std::string render_load_heatmap(const LoadHeatmap& heatmap) {
  Heatmap map{.label = heatmap.label,
              .row_title = "layer",
              .column_title = "expert",
              .unit = "× an even share",
              .width = heatmap.width};
  for (size_t layer = 0; layer < heatmap.load.size(); ++layer) {
    if (heatmap.load[layer].empty()) continue;
    map.rows.push_back(std::to_string(layer));
    map.values.push_back(relative_load(heatmap.load[layer]));
    while (map.columns.size() < map.values.back().size()) map.columns.push_back(std::to_string(map.columns.size()));
  }
  return render_heatmap(map);
}

}  // namespace moe
