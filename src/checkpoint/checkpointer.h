#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "model/parameters.h"

/// Training checkpoints (docs/model_directory.md): immutable folders s<step>-t<attempt>, shards under logical names, MANIFEST.json
/// renamed last. What is stored does not depend on the layout of ranks, so any layout may load what any other saved.
namespace moe {

/// What training consists of besides scalars: parameters and, for each, AdamW's moments in the same layout.
struct TrainingTensors {
  std::vector<Parameter>& parameters;
  std::vector<at::Tensor>& first_moments;
  std::vector<at::Tensor>& second_moments;
};

/// Writes <root>/s<step>-t<attempt> and then removes all but the newest `keep` checkpoints. Collective: rank 0 writes the dense
/// parameters, ranks with `writes_experts` their experts. A failure on any rank is thrown on all (StorageError), leaves no part of
/// the new checkpoint and keeps the old ones.
void save_checkpoint(const std::filesystem::path& root, int64_t step, int attempt, const TrainingTensors& tensors,
                     const nlohmann::json& scalars, Communicator& world, bool writes_experts, int keep);

/// Loads the newest checkpoint below `root` whose scalars `accept` and whose every chunk that any rank reads verifies; an unreadable
/// one is named in a warning and the next older is taken. Collective. Returns its scalars; nullopt if there is none. Throws
/// NoReadableCheckpoint if there are some and none can be read.
std::optional<nlohmann::json> load_newest_checkpoint(const std::filesystem::path& root, TrainingTensors tensors, Communicator& world,
                                                     const std::function<bool(const nlohmann::json& scalars)>& accept);

}  // namespace moe
