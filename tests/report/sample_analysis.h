#pragma once

#include "report/analysis_page.h"

namespace moe::testing {

/// An analysis of six layers of 24 experts with four domains and a baseline: heat maps of every scale and lines.
/// Numbers are made up. `domain` is the name of the first domain.
AnalysisPage sample_analysis(const std::string& domain = "general");

}  // namespace moe::testing
