#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "report/pipeline_report.h"

namespace moe {

/// The rows of the leaderboard of a pipeline that converts in several ways: the dense models that it begins with, as
/// far as they were measured, then each conversion, in the order of the file, once for every last training of it. Empty
/// with fewer than two conversions, and while nothing was measured.
///
/// `records`  the STAGE.json of every finished stage.
std::vector<ComparedConversion> compared_conversions(const v1::PipelineSpec& spec,
                                                     const std::vector<nlohmann::json>& records);

/// The leaderboard for a terminal of `width` columns; empty without rows.
std::string comparison_text(const PipelineReport& report, int width);

/// The same as a table and a drawing, a section of report.html; empty without rows.
std::string comparison_html(const PipelineReport& report);

/// The domains that every row has, by which rows are compared.
std::vector<std::string> common_domains(const PipelineReport& report);

/// Mean of a row's losses over those, as converted or (is_trained) after training; NaN where it was not measured.
double mean_loss(const PipelineReport& report, const ComparedConversion& row, bool is_trained);

}  // namespace moe
