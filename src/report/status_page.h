#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "moe/v1/state.pb.h"

/// The coordinator's page at `/`: what runs, what waits for a decision, and who is there to work. Plain data in, one
/// self-contained HTML document out, which loads itself again every 5 seconds and runs no script. The coordinator fills
/// it from its database under its own lock; drawing needs none.
namespace moe {

/// The page shows no more, and says how to see the rest.
constexpr size_t kStatusPagePipelines = 50;
constexpr size_t kStatusPageJobs = 20;

struct StatusPage {
  std::string version;
  /// As it shall be shown, for example "2026-11-24 12:03:14 UTC".
  std::string now;
  /// Of everything that has not ended, whether it is shown below or not: pipelines by phase, jobs by state.
  std::map<std::string, int64_t> living_pipelines, living_jobs;
  size_t ended_pipelines = 0;
  /// Those that have not ended first, stages with their job_state.
  std::vector<v1::Pipeline> pipelines;
  /// Jobs of these pipelines and every other job at work; those at work with progress and expert_load.
  std::vector<v1::Job> jobs;
  /// Job id -> (step, nats per token), by step.
  std::map<std::string, std::vector<std::pair<int64_t, double>>> loss;
  std::vector<v1::Gang> gangs;
};

std::string render_status_page(const StatusPage& page);

}  // namespace moe
