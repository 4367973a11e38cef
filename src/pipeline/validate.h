#pragma once

#include <string>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/problem.h"
#include "pipeline/spec.h"

/// Checks of a pipeline's meaning; load_pipeline (spec.h) runs them all. Each adds what it finds and never stops early.
namespace moe {

/// apiVersion, kind, name, inputs and defaults.
void check_top_level(const v1::PipelineSpec& spec, const SourceMap& sources, Problems& problems);

/// Names, order, references, gates and every field of every stage.
void check_stages(const v1::PipelineSpec& spec, const SourceMap& sources, const KnownNames& known, Problems& problems);

/// The part of a path that leads to a stage: "stages.stage1", or "" for the only stage of a Job.
std::string stage_path(const v1::PipelineSpec& spec, int stage);

}  // namespace moe
