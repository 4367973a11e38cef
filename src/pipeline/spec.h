#pragma once

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/known_names.h"
#include "pipeline/problem.h"

/// A pipeline file -> checked messages. The caller reads the file; nothing here touches a disk or a clock, so the
/// worker and the coordinator check a file in the same way.
namespace moe {

struct LoadedPipeline {
  /// As written, defaults not filled in (defaults.h does). A `kind: Job` has become a pipeline with one stage that
  /// bears the job's name; its `kind` stays "Job".
  v1::PipelineSpec spec;
  SourceMap sources;
  /// Empty if the pipeline may run.
  Problems problems;
};

/// Parses, applies `--set` assignments, and checks the document as a whole. `file` only names it in problems.
LoadedPipeline load_pipeline(const std::string& text, const std::string& file,
                             const std::vector<std::string>& assignments, const KnownNames& known);

/// The same for callers that cannot go on: throws InvalidArgument with every problem on its own line.
v1::PipelineSpec load_pipeline_or_throw(const std::string& text, const std::string& file,
                                        const std::vector<std::string>& assignments, const KnownNames& known);

/// "convert", "train", ...: name of the message that the stage holds, "gate" for a gate; "" if it holds none.
std::string stage_kind(const v1::Stage& stage);

/// Name of a stage: its own or, for a gate, the gate's.
const std::string& stage_name(const v1::Stage& stage);

}  // namespace moe
