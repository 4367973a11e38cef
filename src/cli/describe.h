#pragma once

#include <string>
#include <vector>

#include "moe/v1/job_service.pb.h"

/// `describe` as text. Pure: the command fetches, these draw.
namespace moe {

/// `metrics` holds the loss curve (may be empty), `events` the newest ones. `width` as Shell::width.
std::string describe_job(const v1::Job& job, const v1::QueryMetricsResponse& metrics,
                         const std::vector<v1::Event>& events, int width);

std::string describe_pipeline(const v1::Pipeline& pipeline, const std::vector<v1::Event>& events, int width);

/// Both end with these.
std::string events_section(const std::vector<v1::Event>& events);

/// "Label       value\n"; nothing for an empty value.
std::string field(const std::string& label, const std::string& value);

}  // namespace moe
