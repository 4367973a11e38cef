#pragma once

#include <filesystem>

namespace moe {

/// Throws UsageError naming the first word of the command line that is not UTF-8: messages, records (JSON) and RPCs,
/// which all of them come into, take nothing else. Called by every program's main.
void require_utf8_arguments(int argc, const char* const* argv);

/// The same path from the root. Throws UsageError if the folder that it starts from, or it itself, is not UTF-8.
std::filesystem::path absolute_path(const std::filesystem::path& path);

}  // namespace moe
