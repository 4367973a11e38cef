#include "common/data_root.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "common/error.h"
#include "common/file_io.h"
#include "common/write_all.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int kIdBytes = 16;
constexpr char kHexDigits[] = "0123456789abcdef";

/// For file systems without hard links: false if the file is there already.
bool create_alone(const fs::path& file, const std::string& text) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0 && errno == EEXIST) return false;
  const bool is_written = descriptor >= 0 && write_all(descriptor, text) && ::fsync(descriptor) == 0;
  const int reason = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (is_written) return true;
  if (descriptor >= 0) ::unlink(file.c_str());
  throw StorageError(concat("cannot create ", file.string(), ": ", std::strerror(reason)));
}

}  // namespace

fs::path root_id_file(const fs::path& root) {
  return root / ".moe-root-id";
}

std::optional<std::string> read_root_id(const fs::path& root) {
  const fs::path file = root_id_file(root);
  // Opened, whatever stat finds: a network file system may remember that a file was missing, until somebody opens it.
  const std::optional<std::string> text = read_file_if_there(file);
  if (!text) return std::nullopt;
  std::string id = *text;
  while (!id.empty() && (id.back() == '\n' || id.back() == '\r' || id.back() == ' ')) id.pop_back();
  if (id.size() != 2 * kIdBytes || id.find_first_not_of(kHexDigits) != std::string::npos) {
    throw InvalidArgument(
        concat(file.string(), " does not hold the id of a data root (", 2 * kIdBytes, " hexadecimal digits)"));
  }
  return id;
}

std::string create_root_id(const fs::path& root) {
  std::string id = random_hex(kIdBytes);
  const fs::path file = root_id_file(root), own = concat(file.string(), ".", id);
  // Written aside and linked: it is whole from its first moment on, and a link never replaces what is there.
  write_file_atomically(own, id + "\n");
  const bool is_linked = ::link(own.c_str(), file.c_str()) == 0;
  const int reason = errno;
  std::error_code ignored;
  fs::remove(own, ignored);
  if (is_linked) {
    sync_directory(root);
    return id;
  }
  // File systems that have no links say so in many ways; why nothing can be made at all is told by trying.
  if (reason != EEXIST && create_alone(file, id + "\n")) {
    sync_directory(root);
    return id;
  }
  if (const std::optional<std::string> other = read_root_id(root)) return *other;
  throw StorageError(concat(file.string(), " was there and is gone: somebody removes it while it is made"));
}

std::string random_hex(int bytes) {
  std::random_device random;
  std::string text;
  for (int i = 0; i < 2 * bytes; ++i) text += kHexDigits[random() % 16];
  return text;
}

}  // namespace moe
