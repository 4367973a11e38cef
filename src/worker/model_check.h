#pragma once

#include "moe/v1/pipeline.pb.h"
#include "pipeline/problem.h"

namespace moe {

/// What a pipeline asks of the models that are there before its first stage and cannot be: its conversions and exports
/// are held against the config of their model as when they start, so that the last of many conversions is not found
/// wrong after all others have run, and rows of trainings and evaluations against what the model at their beginning
/// allows. A conversion or export of what an earlier stage makes is checked at its start alone, and a directory that
/// cannot be opened is left to whoever reads it. Weights are mapped and not read. `effective`: all defaults filled in.
Problems model_problems(const v1::PipelineSpec& effective, const SourceMap& sources);

}  // namespace moe
