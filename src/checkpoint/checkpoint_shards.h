#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/tensor_range.h"

/// The tensor files of a checkpoint: one per rank that writes, tied together by the manifest. No collectives here.
namespace moe {

/// Throws Internal for a range that does not lie in its tensor, or whose part has another form than TensorRange says.
void require_sound(const TensorRange& range);

/// Writes `ranges` into one safetensors file, a part of a tensor under "name[first:end]", and lets go of each part that
/// is written. Returns what the manifest tells of them. Throws StorageError, also when `is_given_up`, asked before
/// every tensor and before the file is synced, has become true; Diverged for a value that is not finite. No part of the
/// file stays then.
std::map<std::string, ManifestTensor> write_shard(const std::filesystem::path& path, std::vector<TensorRange>&& ranges,
                                                  const std::atomic<bool>& is_given_up);

/// Fills every range from the files of the folder, from however many parts it was saved in; every chunk that is read is
/// verified. Throws Corruption that names file and tensor.
void read_ranges(const std::filesystem::path& folder, const Manifest& manifest, const std::vector<TensorRange>& ranges);

}  // namespace moe
