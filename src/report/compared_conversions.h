#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "report/pipeline_report.h"

namespace moe {

/// What the leaderboard of a pipeline that converts in several ways is made of: the dense models that it begins with,
/// as far as they were measured, then each conversion, in the order of the file, once for every last training of it.
/// Empty with fewer than two conversions, and while nothing was measured.
///
/// `records`  the STAGE.json of every finished stage.
std::vector<ComparedConversion> compared_conversions(const v1::PipelineSpec& spec,
                                                     const std::vector<nlohmann::json>& records);

}  // namespace moe
