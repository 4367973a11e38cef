#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace moe::testing {

/// The Python that `deploy/install_deps.sh --peers` made, with the public implementations that we compare with; may not exist.
inline std::filesystem::path peer_python() {
  const auto variable = [](const char* name) -> std::string { return std::getenv(name) != nullptr ? std::getenv(name) : ""; };
  if (!variable("MOE_DEPS").empty()) return variable("MOE_DEPS") + "/peers/bin/python";
  if (!variable("XDG_CACHE_HOME").empty()) return variable("XDG_CACHE_HOME") + "/moe-deps/peers/bin/python";
  return variable("HOME") + "/.cache/moe-deps/peers/bin/python";
}

/// SmolLM2-135M-Instruct, where it was laid out beside that Python; may not exist.
inline std::filesystem::path smollm2_model() { return peer_python().parent_path().parent_path().parent_path() / "smollm2"; }

}  // namespace moe::testing
