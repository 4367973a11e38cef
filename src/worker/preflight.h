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
std::map<std::string, std::filesystem::path> model_paths(const v1::Lease& lease, const std::filesystem::path& data_root);

/// Everything that this rank can tell before any collective: inputs that are missing or unreadable, a device that is not here, a
/// data root that cannot be written or has too little room. Each a sentence; empty: the job may start.
std::vector<std::string> preflight_problems(const v1::Lease& lease, const std::filesystem::path& data_root, int ranks);

}  // namespace moe
