#pragma once

#include <vector>

#include "moe/v1/state.pb.h"
#include "pipeline/advance.h"

/// The engine's state as the message that the coordinator stores and every reader of results sees, and back. The
/// message holds the state exactly: what goes in comes out, so that a pipeline goes on after a restart where it stood.
/// Pure functions; `moe-worker run` and the coordinator call them.
namespace moe {

/// Writes phase, reason, is_started and the stages' name, is_gate, status, message and metrics, and takes
/// only_jobs_paused back. Everything else in `pipeline` (its spec and ids, a stage's job_id and decided_by) stays as it
/// is.
void to_proto(const PipelineState& state, v1::Pipeline& pipeline);

/// The state that to_proto wrote, with gates and needs from `pipeline.spec()`, which must be there. Throws Corruption
/// if the stages are not those of the spec or a phase or status is not a known word.
PipelineState from_proto(const v1::Pipeline& pipeline);

/// Whether a RUNNING pipeline stands still until somebody resumes a job: of its jobs, some are paused and none waits
/// for a gang or has one. The engine knows nothing of it, since its jobs are paused one by one; people see it as
/// PAUSED.
bool only_jobs_pause(const PipelineState& state, const std::vector<v1::JobState>& jobs);

/// The same in the message that to_proto wrote: phase PAUSED and only_jobs_paused, which from_proto takes back.
void show_paused_jobs(const PipelineState& state, const std::vector<v1::JobState>& jobs, v1::Pipeline& pipeline);

}  // namespace moe
