#pragma once

#include <functional>
#include <string>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// Calls `visit` for every path in a pipeline: of inputs, of data, validation and calibration files, and every `input`
/// and `baseline` that is a folder, which a slash tells from the name of an input or "<stage>.model" (as validate.h has
/// it). Empty paths, which are mistakes, are left out. For moectl, whose working directory is not the gang's.
void visit_paths(v1::PipelineSpec& spec, const std::function<void(std::string&)>& visit);

}  // namespace moe
