#pragma once

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// Names of the metrics that a stage produces (common/measures.h), as gates write them after "<stage>.". Per-domain
/// names are spelt out from the stage's own data, so that a gate on a domain that nobody evaluates is found before
/// anything runs. Empty for a gate.
std::vector<std::string> metrics_of(const v1::Stage& stage);

}  // namespace moe
