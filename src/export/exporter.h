#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "common/work_monitor.h"
#include "moe/v1/job.pb.h"

namespace moe {

struct ExportRequest {
  const v1::ExportSpec& spec;  ///< effective: all defaults filled in
  const ModelDirectory& source;
  std::filesystem::path output;  ///< must not exist
  WorkMonitor& monitor;          ///< told of each part: a layer, or what stands before or behind them all
};

/// Writes a model directory for other programs: the format's config.json and tensors in shards, everything of the
/// tokenizer, and export.json, which says what was done. Tensors are made one at a time from the mapped source, so that
/// memory holds one of them. Collective: rank 0 writes. The output appears whole or not at all. Returns export.json's
/// contents. Throws InvalidArgument (plan_export), Corruption, StorageError; the same on all ranks.
nlohmann::json export_model(const ExportRequest& request, Communicator& world);

}  // namespace moe
