#pragma once

#include <string>

#include "common/registry.h"
#include "worker/job_context.h"

namespace moe {

/// THE list of runners, under the names of the job kinds (src/pipeline/kinds/kinds.h).
const Registry<JobRunner>& job_runners();

/// The one runner: runs the stage's job to its end; nullopt if it was asked to stop. Collective over the context's
/// world.
std::optional<JobOutcome> run_job(const JobContext& context);

/// What a finished job leaves in its output as STAGE.json.
nlohmann::json record_of(const JobContext& context, const JobOutcome& outcome, double seconds);

}  // namespace moe
