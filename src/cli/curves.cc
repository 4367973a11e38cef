#include "cli/curves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/measures.h"
#include "report/sparkline.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr int kCurveWidth = 48;

}  // namespace

Curves curves_of(const v1::QueryMetricsResponse& answer, const std::vector<std::string>& wanted) {
  Curves curves;
  curves.names = wanted;
  if (wanted.empty()) {
    std::set<std::string> names;
    for (const v1::MetricPoint& point : answer.points()) {
      for (const auto& [name, value] : point.values()) names.insert(name);
    }
    curves.names.assign(names.begin(), names.end());
    std::stable_partition(curves.names.begin(), curves.names.end(),
                          [](const std::string& name) { return name == "loss"; });
  }
  curves.values.resize(curves.names.size());
  curves.has_value.resize(curves.names.size());
  for (const v1::MetricPoint& point : answer.points()) {
    curves.steps.push_back(point.step());
    for (size_t name = 0; name < curves.names.size(); ++name) {
      const auto value = point.values().find(curves.names[name]);
      const bool has_value = value != point.values().end();
      curves.has_value[name].push_back(has_value);
      curves.values[name].push_back(has_value ? value->second : std::numeric_limits<double>::quiet_NaN());
    }
  }
  return curves;
}

std::string curve_line(const Curves& curves, size_t name) {
  std::vector<double> finite, all;
  for (size_t row = 0; row < curves.steps.size(); ++row) {
    if (!curves.has_value[name][row]) continue;
    all.push_back(curves.values[name][row]);
    if (std::isfinite(all.back())) finite.push_back(all.back());
  }
  if (finite.empty()) return concat(curves.names[name], "  no finite value in ", all.size(), " points");
  const std::string unit = unit_of(curves.names[name]);
  const auto [least, greatest] = std::minmax_element(finite.begin(), finite.end());
  return concat(curves.names[name], "  ", sparkline(all, kCurveWidth), "  ", short_number(finite.front()), " -> ",
                short_number(finite.back()), ", least ", short_number(*least), ", greatest ", short_number(*greatest),
                ", steps ", curves.steps.front(), " to ", curves.steps.back(),
                unit.empty() ? "" : concat(" (", unit, ")"));
}

}  // namespace moe
