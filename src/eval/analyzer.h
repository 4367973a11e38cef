#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/communicator.h"
#include "common/work_monitor.h"
#include "moe/v1/job.pb.h"

namespace moe {

struct AnalyzeRequest {
  const v1::AnalyzeSpec& spec;  ///< effective
  const v1::GangSpec& gang;
  std::filesystem::path model;
  std::optional<std::filesystem::path> baseline;
  WorkMonitor& monitor;  ///< told of the data files, and of parts: tensors and rows of text
  uint64_t seed = 0;     ///< of fresh routers
};

/// Makes the analyses that the job names, or, where it names none, all that its model and its data allow. Of text, the
/// baseline is analysed on the same rows. Collective. {"analyses": {name: result}, "baseline": {"analyses": {name:
/// result of the baseline}}}, "passed_over": {name: why}; the same on every rank, and, up to the rounding of a model's
/// own sums, at any layout. Throws, before any work, what speaks against an analysis, agreed.
nlohmann::json analyze(const AnalyzeRequest& request, Communicator& world);

}  // namespace moe
