#pragma once

#include <cstdint>
#include <string>

namespace moe {

/// Now, as "2026-03-01T14:05:00Z": for files.
std::string utc_now();

/// "2026-03-01 14:05:00 UTC": for people. Empty if there is no such date.
std::string utc_text(int64_t seconds_since_1970);

}  // namespace moe
