#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/job_folder.h"
#include "pipeline/configuration.h"

/// What earlier runs left in a job's folder, and what of it counts for the configuration that is asked for now: the one
/// place that decides between "done already", "goes on", "begins anew" and "stops, since work of another configuration
/// is unfinished". Nothing here deletes, and begin_afresh() alone writes. Used by rank 0, under the lock of the folder
/// or with its lease.
namespace moe {

struct EarlierWork {
  std::optional<nlohmann::json> record;  ///< of a result that stands for this configuration too
  std::vector<std::string> resumable;    ///< checkpoints to go on from, newest first
  int first_attempt = 0;                 ///< of this work: what attempts before it saved is another's, --fresh said
  std::string note;                      ///< for the user: what changed, from where it goes on; may be empty
};

/// For a stage of `moe-worker run`. Throws InvalidArgument that names each changed field where a training of another
/// configuration was begun and not finished.
EarlierWork earlier_work(const JobFolder& folder, const Configuration& now);

/// `--fresh`, before the first stage runs: nothing that is there counts for this configuration any more, from now on
/// and in every run, so that one that is killed goes on with what it began anew. Other configurations keep what they
/// have. `launcher` starts a run again with the same flags: its request counts once for a configuration, and false says
/// that it counted before; empty, every request counts.
bool begin_afresh(const JobFolder& folder, const Configuration& now, const std::string& launcher);

/// For a leased job: those of the committed checkpoints, newest first, that may be gone on from. Its stage never
/// changes; what it reads may. Throws InvalidArgument that names what changed if none is left.
std::vector<std::string> resumable_of(const JobFolder& folder, const std::vector<std::string>& committed,
                                      const Configuration& now);

/// Whether a checkpoint whose scalars these are may be gone on from, and was made by this attempt or a later one.
bool may_go_on_from(const nlohmann::json& scalars, const Configuration& now, int first_attempt);

}  // namespace moe
