#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "common/work_monitor.h"
#include "moe/v1/job.pb.h"

namespace moe {

struct EvaluateRequest {
  const v1::EvaluateSpec& spec;  ///< effective
  const v1::GangSpec& gang;
  uint64_t seed = 0;  ///< of random routing
  std::filesystem::path model;
  std::optional<std::filesystem::path> baseline;
  WorkMonitor& monitor;  ///< told of the data files, and of rows: every task's, on the model and on the baseline
};

/// Runs the tasks on the model, with the spec's top_k and routing, and, on the same tokens, on the baseline as it is.
/// Collective. {"tasks": {"perplexity": {loss, perplexity, tokens, loss_ratio_to_baseline, domains {the same of each},
/// expert_load}}, "baseline": {"tasks": ..}}; the same on every rank.
nlohmann::json evaluate(const EvaluateRequest& request, Communicator& world);

}  // namespace moe
