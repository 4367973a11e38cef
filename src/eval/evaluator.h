#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "moe/v1/job.pb.h"

namespace moe {

struct EvaluateRequest {
  const v1::EvaluateSpec& spec;  ///< effective
  const v1::GangSpec& gang;
  std::filesystem::path model;
  std::optional<std::filesystem::path> baseline;
  std::function<void(int64_t done, int64_t all)>
      progress;  ///< of the whole: every task, on the model and on the baseline
  /// Called on every rank with path -> XXH3-128 of the data files as they were read, which is the same on all ranks.
  /// May throw on all.
  std::function<void(const std::map<std::string, std::string>& digests)> on_data_read = {};
};

/// Runs the tasks on the model and, on the same tokens, on the baseline. Collective. {"tasks": {"perplexity": {loss,
/// perplexity, tokens, loss_ratio_to_baseline, domains {the same of each}, expert_load}}, "baseline": {"tasks": ..}};
/// the same on every rank.
nlohmann::json evaluate(const EvaluateRequest& request, Communicator& world);

}  // namespace moe
