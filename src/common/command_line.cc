#include "common/command_line.h"

#include "common/error.h"

namespace moe {

void require_utf8_arguments(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (is_utf8(argv[i])) continue;
    throw UsageError(concat("argument ", i, " is not UTF-8 ('", excerpt(argv[i]),
                            "'); rename the file or folder, or write the text as UTF-8"));
  }
}

std::filesystem::path absolute_path(const std::filesystem::path& path) {
  const std::filesystem::path whole = std::filesystem::absolute(path);
  if (!is_utf8(whole.native()))
    throw UsageError(concat("the path ", excerpt(whole.native()), " is not UTF-8; rename the folder"));
  return whole;
}

}  // namespace moe
