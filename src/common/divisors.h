#pragma once

#include <cstdint>
#include <string>

namespace moe {

/// "1, 2, 4": the divisors of n > 0, at most `limit` of them, for messages that say which values would do.
inline std::string divisors_of(int64_t n, int64_t limit = 12) {
  std::string text;
  int64_t listed = 0;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d != 0) continue;
    if (++listed > limit) return text + ", ...";
    text += (text.empty() ? "" : ", ") + std::to_string(d);
  }
  return text;
}

}  // namespace moe
