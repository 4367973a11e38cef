#pragma once

#include <string_view>

/// The one loop that writes to a descriptor until nothing is left, for files (common/file_io.h) and for standard
/// output.
namespace moe {

/// Writes all of the bytes, in as many pieces as the system takes them in: what a signal interrupted goes on, and a
/// descriptor that somebody who shares it made non-blocking is waited for. False, with errno, if a piece could not be
/// written; some may have been. EPIPE is an error like another here: SIGPIPE must be ignored (StandardOutput).
[[nodiscard]] bool write_all(int descriptor, std::string_view bytes);

}  // namespace moe
