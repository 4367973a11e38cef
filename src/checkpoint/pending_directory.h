#pragma once

#include <filesystem>

namespace moe {

/// A folder that is filled under a temporary name (`path`.partial) and takes its place on commit(). Destroyed without
/// commit, it leaves nothing. Throws StorageError; InvalidArgument if `path` exists already.
class PendingDirectory {
 public:
  explicit PendingDirectory(std::filesystem::path path);
  PendingDirectory(const PendingDirectory&) = delete;
  PendingDirectory& operator=(const PendingDirectory&) = delete;
  ~PendingDirectory();

  /// Throws InvalidArgument if `path` exists.
  static void require_absent(const std::filesystem::path& path);
  /// Where a folder that will become `path` is being filled.
  static std::filesystem::path temporary_path(const std::filesystem::path& path);

  const std::filesystem::path& folder() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  bool pending_ = true;
};

}  // namespace moe
