#pragma once

#include <cstddef>
#include <string>

namespace moe::testing {

/// How often a text has a part.
inline size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace moe::testing
