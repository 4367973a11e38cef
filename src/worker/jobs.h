#pragma once

#include <optional>

#include "common/registry.h"
#include "worker/job_context.h"
#include "worker/model_check.h"

namespace moe {

/// A row: the half of a job kind that links what its work needs.
struct JobRunner {
  /// Runs the job to its end; nullopt if it was asked to stop and saved a checkpoint. Collective over the world.
  std::optional<JobOutcome> (*run)(const JobContext& context);
  /// Before the first stage of a pipeline, on one rank.
  ModelCheck check_models;
};

/// THE list of runners, under the names of the job kinds (src/pipeline/kinds/kinds.h).
const Registry<JobRunner>& job_runners();

/// The one runner: runs the stage's job to its end; nullopt if it was asked to stop. Collective over the context's
/// world.
std::optional<JobOutcome> run_job(const JobContext& context);

/// What a finished job leaves in its output as STAGE.json.
nlohmann::json record_of(const JobContext& context, const JobOutcome& outcome, double seconds);

}  // namespace moe
