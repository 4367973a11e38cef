#pragma once

#include <string>
#include <vector>

#include "report/status_page.h"

/// The sections of the status page; status_page.cc puts them together. Each comes with its heading and, when there is
/// nothing to show, with what to do next.
namespace moe {

/// Every pipeline with its stages and gates as a row, and what wants attention below.
std::string pipelines_section(const StatusPage& page);

/// Progress, loss curve and expert load of every job that a gang works on.
std::string jobs_section(const StatusPage& page);

/// Ranks, nodes, state and work of every gang.
std::string gangs_section(const StatusPage& page);

/// "QUEUED" for JOB_STATE_QUEUED; "" for an unspecified state.
std::string state_word(v1::JobState state);

/// Of a gate its status. While a stage is not done its job knows better where it stands: queued, paused, waiting for an
/// earlier one.
std::string shown_state(const v1::StageState& stage);

/// A gang has the job and has not let go of it.
bool is_at_work(const v1::Job& job);

/// How many jobs gangs have, shown or not.
int64_t jobs_at_work(const StatusPage& page);

/// Share of the target that is done, from 0 to 1; 0 without a target.
double share_done(const v1::Progress& progress);

}  // namespace moe
