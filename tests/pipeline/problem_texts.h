#pragma once

#include <string>
#include <vector>

#include "pipeline/spec.h"

namespace moe::testing {

/// What is wrong with a configuration, a text for each problem.
inline std::vector<std::string> texts(const LoadedPipeline& loaded) {
  std::vector<std::string> all;
  for (const Problem& problem : loaded.problems) all.push_back(problem.text());
  return all;
}

}  // namespace moe::testing
