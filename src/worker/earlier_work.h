#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/job_folder.h"
#include "pipeline/configuration.h"

/// What earlier runs left in a job's folder, and what of it counts for the configuration that is asked for now: the one
/// place that decides between "done already", "goes on", "begins anew" and "stops, since work of another configuration
/// is unfinished". Nothing here writes or deletes. Used by rank 0, under the lock of the folder or with its lease.
namespace moe {

struct EarlierWork {
  std::optional<nlohmann::json> record;  ///< of a result that stands for this configuration too
  std::vector<std::string> resumable;    ///< checkpoints to go on from, newest first
  std::string note;                      ///< for the user: what changed, from where it goes on; may be empty
};

/// For a stage of `moe-worker run`. With `fresh` nothing of before counts. Throws InvalidArgument that names each
/// changed field where a training of another configuration was begun and not finished.
EarlierWork earlier_work(const JobFolder& folder, const Configuration& now, bool fresh);

/// For a leased job: those of the committed checkpoints, newest first, that may be gone on from. Its stage never
/// changes; what it reads may. Throws InvalidArgument that names what changed if none is left.
std::vector<std::string> resumable_of(const JobFolder& folder, const std::vector<std::string>& committed,
                                      const Configuration& now);

/// Whether a checkpoint whose scalars these are may be gone on from.
bool may_go_on_from(const nlohmann::json& scalars, const Configuration& now);

}  // namespace moe
