#include "report/loss_curve.h"

#include <algorithm>
#include <cmath>

#include "common/measures.h"
#include "report/svg_line_chart.h"

namespace moe {

std::string render_loss_curve(const std::string& label, const std::vector<LossPoint>& points) {
  ChartSeries raw{"training, each step", {}, {}, 0, true, false};
  ChartSeries validation{"validation", {}, {}, 1, false, true};
  for (const LossPoint& point : points) {
    const auto step = static_cast<double>(point.step);
    if (std::isfinite(point.loss)) {
      raw.x.push_back(step);
      raw.y.push_back(point.loss);
    }
    if (point.validation) {
      validation.x.push_back(step);
      validation.y.push_back(*point.validation);
    }
  }
  LineChart chart;
  chart.label = label;
  chart.x_title = "step";
  chart.y_title = "loss (" + unit_of("loss") + ")";
  if (raw.x.size() >= 40) {
    const auto reach = std::max<int64_t>(2, static_cast<int64_t>(raw.x.size()) / 40);
    chart.series.push_back({"training (smoothed)", raw.x, smoothed(raw.y, reach), 0, false, false});
    chart.series.push_back(raw);
  } else {
    raw.name = "training";
    raw.is_faint = false;
    chart.series.push_back(raw);
  }
  if (!validation.x.empty()) chart.series.push_back(validation);
  return render_line_chart(chart);
}

}  // namespace moe
