#pragma once

#include <map>
#include <string>
#include <vector>

namespace moe::testing {

struct ProcessResult {
  int exit_code = 0;  ///< 128 + signal if a signal ended it
  std::string out;
  std::string err;
};

/// Runs a real program to its end. `environment` is added to ours.
ProcessResult run_process(const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment = {},
                          const std::string& working_directory = ".");

/// The moe-worker of this build.
std::string worker_path();

/// moe-worker under a real mpirun with `ranks` ranks, one thread each; with ranks 1, without mpirun.
std::vector<std::string> worker_command(int ranks, std::vector<std::string> arguments);

}  // namespace moe::testing
