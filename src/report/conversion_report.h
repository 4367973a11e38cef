#pragma once

#include <string>

#include "report/pipeline_report.h"

/// What was measured of the models that conversions made, before any training (step0_* of common/measures.h).
namespace moe {

/// One conversion in a few sentences; empty if the stage is none or is not done.
std::string conversion_text(const StageReport& stage);

/// All conversions of a pipeline as a section with a table; empty if there are none.
std::string conversions_html(const PipelineReport& report);

}  // namespace moe
