#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moe/v1/worker_service.pb.h"

namespace moe {

/// This machine's name.
std::string node_name();

/// What a lease's job reads, with paths of this machine. References as the stage writes them -> folder.
std::map<std::string, std::filesystem::path> model_paths(const v1::Lease& lease,
                                                         const std::filesystem::path& data_root);

/// Everything that this rank can tell before any collective: a device that is not here, inputs that are missing or
/// unreadable, a data root that is not the coordinator's, cannot be written or has too little room. All that was found;
/// `kind` is that of the first of these. Without a kind the job may start.
v1::Refusal preflight(const v1::Lease& lease, const std::filesystem::path& data_root, int ranks,
                      const std::string& device);

/// What it says, line by line.
std::string text_of(const v1::Refusal& refusal);

}  // namespace moe
