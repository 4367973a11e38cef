#pragma once

#include <string>

#include "report/pipeline_report.h"

/// The leaderboard of a pipeline that converts in several ways.
namespace moe {

/// The leaderboard for a terminal of `width` columns; empty without rows.
std::string comparison_text(const PipelineReport& report, int width);

/// The same as a table and a drawing, a section of report.html; empty without rows.
std::string comparison_html(const PipelineReport& report);

}  // namespace moe
