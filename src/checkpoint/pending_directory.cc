#include "checkpoint/pending_directory.h"

#include <utility>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace fs = std::filesystem;

fs::path PendingDirectory::temporary_path(const fs::path& path) {
  // "out/" names "out": the temporary folder stands beside it, not in it.
  return (path.has_filename() ? path : path.parent_path()).string() + ".partial";
}

void PendingDirectory::require_absent(const fs::path& path) {
  if (fs::exists(path))
    throw InvalidArgument(path.string() + " exists already; nothing is overwritten: choose another folder");
}

PendingDirectory::PendingDirectory(fs::path path) : path_(std::move(path)), temporary_(temporary_path(path_)) {
  require_absent(path_);
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);  // of a writer that was killed
  if (fs::exists(temporary_))
    throw StorageError("cannot remove " + temporary_.string() + ", which an earlier run left; remove it by hand");
  make_directories(temporary_);
}

PendingDirectory::~PendingDirectory() {
  std::error_code ignored;
  if (pending_) fs::remove_all(temporary_, ignored);
}

void PendingDirectory::commit() {
  sync_directory(temporary_);
  rename_durably(temporary_, path_);
  pending_ = false;
}

}  // namespace moe
