#include "report/svg_heatmap.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "report/svg.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr double kLeft = 34;
constexpr double kTop = 36;
constexpr double kLegendHeight = 46;
// Space around a cell, which its outline needs too.
constexpr double kInset = 0.75;

// -1 at a quarter of the even share and below, 0 at the even share, 1 at four times and above.
double color_position(double relative) {
  return relative <= 0 ? -1 : std::clamp(std::log2(relative) / 2, -1.0, 1.0);
}

SvgAttributes cell_fill(double relative) {
  // A dead expert is no matter of degree: an outline instead of a colour.
  if (relative <= 0) return {{"fill", "none"}, {"stroke", "var(--bad, #c0262d)"}, {"stroke-width", "1.5"}};
  const double position = color_position(relative);
  return {{"fill", position < 0 ? "var(--cold, #0072b2)" : "var(--hot, #d55e00)"},
          {"fill-opacity", svg_number(0.04 + 0.86 * std::abs(position))}};
}

void draw_legend(SvgWriter& svg, double width, double top) {
  constexpr double kStops[] = {0, 0.25, 0.5, 1, 2, 4};
  constexpr const char* kNames[] = {"0", "¼", "½", "1", "2", "4+"};
  const double cell = std::min(38.0, (width - kLeft - 10) / 6);
  for (int i = 0; i < 6; ++i) {
    SvgAttributes attributes{{"x", svg_number(kLeft + i * cell + 0.75)},
                             {"y", svg_number(top)},
                             {"width", svg_number(cell - 2.5)},
                             {"height", "10"}};
    const SvgAttributes fill = cell_fill(kStops[i]);
    attributes.insert(attributes.end(), fill.begin(), fill.end());
    svg.element("rect", attributes);
    svg.text(kLeft + (i + 0.5) * cell, top + 23, "middle", kNames[i], {{"font-size", "11"}});
  }
  if (width - kLeft - 6 * cell > 95) {
    svg.text(kLeft + 6 * cell + 8, top + 10, "start", "× an even share",
             {{"font-size", "11"}, {"fill-opacity", "0.7"}});
  }
}

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

std::string render_load_heatmap(const LoadHeatmap& heatmap) {
  size_t most_experts = 1;
  std::vector<size_t> layers;  // those that have a row
  for (size_t l = 0; l < heatmap.load.size(); ++l) {
    if (!heatmap.load[l].empty()) layers.push_back(l);
    most_experts = std::max(most_experts, heatmap.load[l].size());
  }
  const double cell_width = (heatmap.width - kLeft - 6) / static_cast<double>(most_experts);
  const double cell_height = layers.size() > 24 ? 12 : 22;
  const double grid_bottom = kTop + cell_height * static_cast<double>(layers.size());
  SvgWriter svg(heatmap.width, grid_bottom + kLegendHeight, heatmap.label);
  svg.text(kLeft + (heatmap.width - kLeft) / 2, 12, "middle", "expert", {{"fill-opacity", "0.7"}});
  svg.text(4, 28, "start", "layer", {{"font-size", "11"}, {"fill-opacity", "0.7"}});
  // Every n-th expert and layer is named, so that names do not touch.
  const auto expert_stride = static_cast<size_t>(std::ceil(20 / cell_width));
  for (size_t e = 0; e < most_experts; e += expert_stride) {
    svg.text(kLeft + (static_cast<double>(e) + 0.5) * cell_width, 28, "middle", std::to_string(e),
             {{"font-size", "11"}});
  }
  const size_t layer_stride = cell_height < 14 ? 2 : 1;
  for (size_t row = 0; row < layers.size(); ++row) {
    const size_t l = layers[row];
    const double y = kTop + cell_height * static_cast<double>(row);
    if (row % layer_stride == 0) {
      svg.text(kLeft - 6, y + cell_height / 2 + 4, "end", std::to_string(l), {{"font-size", "11"}});
    }
    const std::vector<double> relative = relative_load(heatmap.load[l]);
    for (size_t e = 0; e < relative.size(); ++e) {
      const double x = kLeft + cell_width * static_cast<double>(e);
      SvgAttributes attributes{{"x", svg_number(x + kInset)},
                               {"y", svg_number(y + kInset)},
                               {"width", svg_number(std::max(0.5, cell_width - 2 * kInset))},
                               {"height", svg_number(cell_height - 2 * kInset)}};
      const SvgAttributes fill = cell_fill(relative[e]);
      attributes.insert(attributes.end(), fill.begin(), fill.end());
      const std::string value = fixed(relative[e], 2);
      svg.titled_element("rect", attributes, concat("layer ", l, ", expert ", e, ": ", value, " × an even share"));
      if (cell_width >= 30 && cell_height >= 16) {
        svg.text(x + cell_width / 2, y + cell_height / 2 + 4, "middle", value,
                 {{"font-size", "11"}, {"pointer-events", "none"}});
      }
    }
  }
  draw_legend(svg, heatmap.width, grid_bottom + 12);
  return svg.finish();
}

}  // namespace moe
