#pragma once

#include <string>

#include "common/registry.h"
#include "worker/job_context.h"

namespace moe {

/// THE list of job kinds, by the name of their message in a stage (`convert`, `train`, `evaluate`, `export`).
const Registry<JobKind>& job_kinds();

/// The one runner: runs the stage's job to its end; nullopt if it was asked to stop. Collective over the context's
/// world.
std::optional<JobOutcome> run_job(const JobContext& context);

/// What a finished job leaves in its output as STAGE.json.
nlohmann::json record_of(const JobContext& context, const JobOutcome& outcome, double seconds);

/// For jobs without checkpoints: shows progress and, if any rank was asked to stop, leaves the job on all of them.
/// Collective.
void end_of_unit(const JobContext& context, const ProgressUpdate& update);

// One file each: convert_job.cc, train_job.cc, evaluate_job.cc, export_job.cc.
std::optional<JobOutcome> run_convert_job(const JobContext& context);
std::optional<JobOutcome> run_train_job(const JobContext& context);
std::optional<JobOutcome> run_evaluate_job(const JobContext& context);
std::optional<JobOutcome> run_export_job(const JobContext& context);

}  // namespace moe
