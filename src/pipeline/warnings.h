#pragma once

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// What a pipeline may do but its user hardly means, one sentence each, with the numbers and what to change. Of the
/// effective spec (defaults.h): told once, where a pipeline is checked, submitted or started.
std::vector<std::string> warnings_of(const v1::PipelineSpec& effective);

}  // namespace moe
