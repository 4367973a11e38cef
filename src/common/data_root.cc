#include "common/data_root.h"

#include <random>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int kIdBytes = 16;
constexpr char kHexDigits[] = "0123456789abcdef";

}  // namespace

fs::path root_id_file(const fs::path& root) { return root / ".moe-root-id"; }

std::optional<std::string> read_root_id(const fs::path& root) {
  const fs::path file = root_id_file(root);
  std::error_code error;
  // Opened even when stat finds nothing: a network file system may remember that a file was missing, until somebody opens it.
  if (!fs::exists(file, error)) {
    try {
      read_file(file);
    } catch (const InvalidArgument&) {
      return std::nullopt;
    }
  }
  std::string id = read_file(file);
  while (!id.empty() && (id.back() == '\n' || id.back() == '\r' || id.back() == ' ')) id.pop_back();
  if (id.size() != 2 * kIdBytes || id.find_first_not_of(kHexDigits) != std::string::npos) {
    throw InvalidArgument(concat(file.string(), " does not hold the id of a data root (", 2 * kIdBytes, " hexadecimal digits)"));
  }
  return id;
}

std::string create_root_id(const fs::path& root) {
  std::string id = random_hex(kIdBytes);
  write_file_atomically(root_id_file(root), id + "\n");
  return id;
}

std::string random_hex(int bytes) {
  std::random_device random;
  std::string text;
  for (int i = 0; i < 2 * bytes; ++i) text += kHexDigits[random() % 16];
  return text;
}

}  // namespace moe
