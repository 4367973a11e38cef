#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/file_io.h"

namespace moe {

class Store;

/// A coordinator's hold on its data root, for as long as it lives: the folder is there, no other coordinator has it (a
/// lock in the folder, which also reaches coordinators on other machines), and it is the one that the store belongs to.
class DataRootHold {
 public:
  /// A store that belongs to no root yet takes this one, unless it knows of jobs that were begun and the root has
  /// neither an id nor any of their folders: the folder is made if only its last component is missing, its id if it has
  /// none. Before Store::load(). Throws InvalidArgument (the parent is not there; another coordinator has it, and
  /// which; the store belongs to another root) or StorageError.
  DataRootHold(const std::filesystem::path& path, Store& store);

  const std::filesystem::path& path() const { return path_; }
  const std::string& id() const { return id_; }

  /// What another coordinator is told of this one.
  void announce(const std::string& text) const;

 private:
  const std::filesystem::path path_;
  const std::unique_ptr<FileLock> lock_;  ///< null where the file system has no locks
  const std::string id_;
};

}  // namespace moe
