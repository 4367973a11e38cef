#pragma once

#include <string>

namespace moe {

/// Now, as "2026-03-01T14:05:00Z".
std::string utc_now();

}  // namespace moe
