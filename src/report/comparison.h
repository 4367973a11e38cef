#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "report/pipeline_report.h"

/// The leaderboard of a pipeline that converts in several ways.
namespace moe {

/// The leaderboard for a terminal of `width` columns; empty without rows.
std::string comparison_text(const PipelineReport& report, int width);

/// The same as a table and a drawing, a section of report.html; empty without rows.
std::string comparison_html(const PipelineReport& report);

/// The same for programs: a list of rows, each with its label, experts, share of active parameters ("active"), losses
/// by domain as converted and after training, their means, divergence and load; a loss is {"mean", "deviation"},
/// without the second for one seed. What was not measured is absent.
nlohmann::json comparison_json(const PipelineReport& report);

}  // namespace moe
