#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/figure.h"

namespace moe {

/// Figures over `routers`, the list of results of each router that analyses of text have: "layer", "part", "experts",
/// and what is theirs. A row or column is named by its layer, with "attention" where that is what routes.
std::string router_name(const nlohmann::json& router);

/// A heat map of a number of each expert, a row a router: values(router) is a list by expert.
Figure expert_heatmap(const nlohmann::json& routers,
                      const std::function<std::vector<double>(const nlohmann::json& router)>& values);

/// A line a name over the layers: value(router, name). Of several parts that route, a line each.
Figure router_lines(const nlohmann::json& routers, const std::vector<std::string>& names,
                    const std::function<double(const nlohmann::json& router, const std::string& name)>& value);

/// Each as a multiple of the mean; zeros where all are.
std::vector<double> over_mean(std::vector<double> values);

}  // namespace moe
