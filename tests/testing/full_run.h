#pragma once

#include <cstdlib>
#include <string>

/// Two sizes of one test: the default run proves the claim on a sample, `bash deploy/test.sh --full` (which sets
/// MOE_FULL=1) on all that the README counts. docs/testing.md lists what the full run adds.
namespace moe::testing {

inline bool is_full_run() {
  const char* const value = std::getenv("MOE_FULL");
  return value != nullptr && std::string(value) == "1";
}

/// The size of this run.
template <typename T>
T sized(T in_default_run, T in_full_run) {
  return is_full_run() ? in_full_run : in_default_run;
}

}  // namespace moe::testing
