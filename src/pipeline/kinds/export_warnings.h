#pragma once

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// Warns where the stages that made a model give it what the export's stock format does not hold, or none does for
/// `auto`: routers, balance and alignment as the pipeline says them, before a model is there. What only the model says
/// (its family, its biases) is judged by the export itself. `origins`: the last one first.
std::vector<std::string> export_warnings(const v1::Stage& stage, const std::vector<v1::Stage>& origins);

}  // namespace moe
