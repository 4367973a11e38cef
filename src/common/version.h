#pragma once

namespace moe {

/// Of all three programs; the same as in CMakeLists.txt.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace moe
