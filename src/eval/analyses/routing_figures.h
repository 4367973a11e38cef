#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/figure.h"

/// What gates may name and what is drawn of the result of the analysis `routing`.
namespace moe {

std::map<std::string, double> routing_metrics(const nlohmann::json& result);
std::vector<Figure> routing_figures(const nlohmann::json& result);

}  // namespace moe
