#include "coordinator/data_root_hold.h"

#include <unistd.h>

#include <fstream>

#include "common/command_line.h"
#include "common/data_root.h"
#include "common/error.h"
#include "common/log.h"
#include "coordinator/store.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

fs::path lock_file(const fs::path& root) {
  return root / ".moe-coordinator.lock";
}

[[noreturn]] void throw_other_root(const fs::path& root, const std::string& known, const std::string& what) {
  const std::string file = root_id_file(root).string();
  throw InvalidArgument(concat("the store belongs to the data root ", known, ", and ", file, what,
                               ": mount the storage, or give the --data-root and --store that belong together. ",
                               "If the folder was restored or copied without hidden files: echo ", known, " > ", file));
}

/// A store that no program with root ids has used yet belongs to no root; where its work is, a part of that is.
void require_earlier_work(const fs::path& root, const Store& store) {
  const std::vector<std::string> begun = store.begun_jobs();
  if (begun.empty()) return;
  for (const std::string& job : begun) {
    std::error_code error;
    const fs::file_status status = fs::status(root / job, error);
    if (fs::exists(status)) return;
    if (status.type() == fs::file_type::none)
      throw StorageError(concat("cannot look at ", (root / job).string(), ": ", error.message()));
  }
  const std::string file = root_id_file(root).string();
  throw InvalidArgument(concat("the store knows of ", begun.size(),
                               begun.size() == 1 ? " job that was" : " jobs that were", " begun (", begun.front(),
                               begun.size() == 1 ? "" : ", ...", "), and ", root.string(),
                               " has no folder of any and no ", root_id_file(root).filename().string(),
                               ": mount the storage, or give the --data-root and --store that belong together. If "
                               "those folders were removed on purpose: echo ",
                               random_hex(16), " > ", file));
}

/// The id that the root has; nullopt: it has none, and this store may give it one.
std::optional<std::string> root_id_or_right_to_make_it(const fs::path& root, const Store& store) {
  std::optional<std::string> found = read_root_id(root);
  if (found) return found;
  if (const std::string known = store.root_id(); !known.empty()) throw_other_root(root, known, " is missing");
  require_earlier_work(root, store);
  return std::nullopt;
}

/// The folder as an absolute path. Made if need be, but never by a store that has results somewhere.
fs::path opened(const fs::path& path, const Store& store) {
  const fs::path root = absolute_path(path).lexically_normal();
  std::error_code error;
  const fs::file_type type = fs::status(root, error).type();
  if (type == fs::file_type::none)
    throw StorageError(concat("cannot look at --data-root ", root.string(), ": ", error.message()));
  if (type != fs::file_type::directory) {
    if (const std::string known = store.root_id(); !known.empty()) throw_other_root(root, known, " is not there");
    require_earlier_work(root, store);
  } else {
    root_id_or_right_to_make_it(root,
                                store);  // asked again under the lock, whose file is not to stand in a mount point
  }
  make_last_directory(path, "--data-root");
  return root;
}

std::unique_ptr<FileLock> locked(const fs::path& root) {
  try {
    return std::make_unique<FileLock>(lock_file(root));
  } catch (const InvalidArgument&) {
    std::string holder;
    std::ifstream in(lock_file(root));
    std::getline(in, holder);
    throw InvalidArgument(
        concat("the data root ", root.string(), " is in use by another moe-coordinator",
               holder.empty() ? "" : " (" + holder + ")",
               ": two would know nothing of each other's jobs; stop that one, or give another --data-root"));
  } catch (const StorageError& error) {
    // Storage may know no locks; a file that is another user's is another user's coordinator.
    std::error_code ignored;
    if (!fs::exists(lock_file(root), ignored) || ::access(lock_file(root).c_str(), W_OK) != 0) throw;
    log_warning(concat("event=data_root_not_locked reason=\"", error.what(),
                       "\"; nothing keeps a second coordinator away from ", root.string()));
    return nullptr;
  }
}

std::string identified(const fs::path& root, Store& store) {
  const std::string known = store.root_id();
  std::optional<std::string> found = root_id_or_right_to_make_it(root, store);
  if (known.empty()) {
    if (!found) found = create_root_id(root);
    store.set_root_id(*found);
  } else if (*found != known) {
    throw_other_root(root, known, " says " + *found);
  }
  return *found;
}

}  // namespace

DataRootHold::DataRootHold(const fs::path& path, Store& store)
    : path_(opened(path, store)), lock_(locked(path_)), id_(identified(path_, store)) {}

// In place: a renamed file would be another than the one that is locked.
void DataRootHold::announce(const std::string& text) const {
  std::ofstream(lock_file(path_), std::ios::trunc) << text << "\n";
}

}  // namespace moe
