#pragma once

#include <string_view>

/// What every benchmark program answers alike.
namespace moe {

/// Whether --help or -h is among the arguments, wherever it stands.
inline bool is_help_wanted(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (const std::string_view argument = argv[i]; argument == "--help" || argument == "-h") return true;
  }
  return false;
}

}  // namespace moe
