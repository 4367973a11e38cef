#include "eval/analyses/router_figures.h"

#include <cmath>
#include <numeric>
#include <set>

#include "common/error.h"

namespace moe {

using nlohmann::json;

std::string router_name(const json& router) {
  const std::string part = router["part"];
  return concat(router["layer"].get<int64_t>(), part == "ffn" ? "" : " " + part);
}

Figure expert_heatmap(const json& routers, const std::function<std::vector<double>(const json& router)>& values) {
  Figure figure{.row_title = "layer", .column_title = "expert"};
  for (const json& router : routers) {
    figure.rows.push_back(router_name(router));
    figure.values.push_back(values(router));
    while (figure.columns.size() < figure.values.back().size())
      figure.columns.push_back(std::to_string(figure.columns.size()));
  }
  return figure;
}

Figure router_lines(const json& routers, const std::vector<std::string>& names,
                    const std::function<double(const json& router, const std::string& name)>& value) {
  Figure figure{.form = Figure::Form::kLines, .column_title = "layer"};
  std::set<int64_t> layers;
  std::set<std::string> parts;
  for (const json& router : routers) {
    layers.insert(router["layer"].get<int64_t>());
    parts.insert(router["part"].get<std::string>());
  }
  for (const int64_t layer : layers) figure.columns.push_back(std::to_string(layer));
  for (const std::string& part : parts) {
    for (const std::string& name : names) {
      std::vector<double> row(layers.size(), std::nan(""));
      for (const json& router : routers) {
        if (router["part"] != part) continue;
        row[std::distance(layers.begin(), layers.find(router["layer"].get<int64_t>()))] = value(router, name);
      }
      figure.rows.push_back(parts.size() > 1 ? name + " (" + part + ")" : name);
      figure.values.push_back(std::move(row));
    }
  }
  return figure;
}

std::vector<double> over_mean(std::vector<double> values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& value : values) value *= sum > 0 ? static_cast<double>(values.size()) / sum : 0;
  return values;
}

}  // namespace moe
