#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "testing/process_file.h"
#include "testing/subprocess.h"

namespace moe::testing {

/// The ranks of a gang that runs now: processes whose command line begins with moe-worker and names the output folder.
inline std::vector<pid_t> rank_processes(const std::filesystem::path& out) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = read_process_file(name, "cmdline");
    if (command.starts_with(worker_path()) && command.find(out.string()) != std::string::npos)
      found.push_back(std::stoi(name));
  }
  return found;
}

}  // namespace moe::testing
