#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/tensor_range.h"
#include "comm/communicator.h"

/// Training checkpoints (docs/model_directory.md): immutable folders s<step>-t<attempt>, shards under logical names,
/// MANIFEST.json renamed last. What is stored are logical tensors, whichever rank held which part of them, so any
/// layout may load what any other saved.
namespace moe {

/// A checkpoint that is complete on disk.
struct SavedCheckpoint {
  std::string name;  ///< of its folder: "s00000010-t0001"
  int64_t step = 0;
  std::string digest;  ///< XXH3-128 of its MANIFEST.json
  int64_t bytes = 0;
};

/// A complete folder, as its name and its manifest tell it.
struct StoredCheckpoint {
  std::string name;
  int64_t step = 0;
  int attempt = 0;
  nlohmann::json scalars = nullptr;  ///< null if the manifest, or a file that it lists, cannot be read
};

/// Who says which checkpoints count. Alone, what was made with the same configuration; with a coordinator its database
/// decides.
struct CheckpointAuthority {
  /// Names that may be resumed from, newest first; nullopt: any complete folder that is ours.
  std::optional<std::vector<std::string>> resumable;
  /// Whether training may go on from a checkpoint with these scalars: only such ones are removed when they are old.
  /// Asked on every rank; empty: all.
  std::function<bool(const nlohmann::json& scalars)> is_ours;
  /// Called by rank 0 when the folder is complete; may be empty. False: not committed for now, and older ones are kept.
  /// What it throws is thrown on all ranks.
  std::function<bool(const SavedCheckpoint& checkpoint)> commit;
};

/// The complete folders below `root` in order of writing, newest first. Throws StorageError if it cannot be listed.
std::vector<StoredCheckpoint> stored_checkpoints(const std::filesystem::path& root);
/// One of them, by its name.
StoredCheckpoint stored_checkpoint(const std::filesystem::path& root, const std::string& name);

/// Writes <root>/s<step>-t<attempt>, has it committed, and then removes all of ours but the newest `keep`; those of
/// another configuration, and damaged ones, which may be another's, stay. Collective: every rank writes those of its
/// ranges that say so. A failure on any rank is thrown on all (StorageError), leaves no part of the new checkpoint and
/// keeps the old ones.
void save_checkpoint(const std::filesystem::path& root, int64_t step, int attempt,
                     const std::vector<TensorRange>& ranges, const nlohmann::json& scalars, Communicator& world,
                     int keep, const CheckpointAuthority& authority = {});

/// Loads the newest checkpoint below `root` that is ours and whose every chunk that any rank reads verifies into the
/// ranges, from whatever ranges other ranks saved; an unreadable one is named in a warning and the next older is taken.
/// Collective. Returns its scalars; nullopt if there is none. Throws NoReadableCheckpoint if there are some and none
/// can be read.
std::optional<nlohmann::json> load_newest_checkpoint(const std::filesystem::path& root,
                                                     const std::vector<TensorRange>& ranges, Communicator& world,
                                                     const CheckpointAuthority& authority = {});

}  // namespace moe
