#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

/// The public implementations that `deploy/install_deps.sh --peers` installs for tests to compare with. Every path may
/// not exist: a test without its peer is skipped and says so.
namespace moe::testing {

/// $MOE_DEPS, or moe-deps in the user's cache folder, as that script has it.
inline std::filesystem::path deps_folder() {
  const auto variable = [](const char* name) -> std::string {
    return std::getenv(name) != nullptr ? std::getenv(name) : "";
  };
  if (!variable("MOE_DEPS").empty()) return variable("MOE_DEPS");
  if (!variable("XDG_CACHE_HOME").empty()) return variable("XDG_CACHE_HOME") + "/moe-deps";
  return variable("HOME") + "/.cache/moe-deps";
}

/// The Python with the peers, transformers 5 among them.
inline std::filesystem::path peer_python() {
  return deps_folder() / "peers/bin/python";
}

/// The Python whose transformers is of line 4.5x; all else is that of peer_python().
inline std::filesystem::path peer_python_of_transformers4() {
  return deps_folder() / "peers4/bin/python";
}

/// SmolLM2-135M-Instruct, where it was laid out beside them.
inline std::filesystem::path smollm2_model() {
  return deps_folder() / "smollm2";
}

}  // namespace moe::testing
