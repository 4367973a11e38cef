#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/// Files the way that nothing is lost: whole reads, atomic writes, read-only mappings. Errors name the path and what
/// the system said: InvalidArgument for an input that is missing or unreadable, StorageError for a failed write.
namespace moe {

/// Whether an input file or folder is there. A symbolic link whose target is missing is an error, not an absence (a
/// cache of models is made of links): throws InvalidArgument that says where it leads, as it does for a place that may
/// not be looked at.
bool is_there(const std::filesystem::path& path);

/// Throws InvalidArgument if is_lfs_pointer(path), with what to do.
void refuse_lfs_pointer(const std::filesystem::path& path);

/// Whether the file is a Git LFS pointer: the few lines that stand in place of a file's contents until `git lfs pull`.
bool is_lfs_pointer(const std::filesystem::path& path);

/// The whole file. Throws InvalidArgument if it cannot be read or is a Git LFS pointer, as do MappedFile and
/// xxh3_hex_of_file.
std::string read_file(const std::filesystem::path& path);

/// nullopt if there is no such file, told by opening it. Throws InvalidArgument for a dangling link and for what is no
/// file, StorageError where it cannot be told or read.
std::optional<std::string> read_file_if_there(const std::filesystem::path& path);

/// Writes path.tmp, syncs it, renames it over `path` and syncs the folder: a reader sees the old file or the new one.
/// As AtomicFile has it, links are followed, modes kept and devices written in place. Throws StorageError and removes
/// the temporary file.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Creates the folder and its parents. Throws StorageError.
void make_directories(const std::filesystem::path& path);

/// Creates the folder that a user named if only its last component is missing: a path below storage that is not mounted
/// is a mistake, not a wish. Below the working folder (a relative path) missing parents are made too. Throws
/// InvalidArgument naming `flag` and what is missing, or StorageError.
void make_last_directory(std::filesystem::path path, const char* flag);

/// Makes renames inside the folder durable. Throws StorageError.
void sync_directory(const std::filesystem::path& path);

/// Renames within a file system and syncs both folders. Throws StorageError.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// A file that is written piece by piece under a temporary name (`path`.tmp) and takes its place on commit(). Destroyed
/// without commit, it leaves nothing. A file that was there keeps its mode, and its owner and group where we may set
/// them: where not, setuid, setgid and what would widen access go. A symbolic link stays, and what it points to is
/// replaced. A device or a pipe is written in place, piece by piece, and so is an open descriptor by its name
/// (/dev/stdout, /dev/fd/3, /proc/self/fd/3), at its own position; if the reader goes away, the process ends as SIGPIPE
/// ends it. Move-less: lives in one scope.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Throws StorageError (disk full, ...).
  void write(std::string_view bytes);
  void write(std::span<const std::byte> bytes);
  /// Syncs, closes and renames.
  void commit();

 private:
  std::filesystem::path path_;       ///< where the bytes shall stand: the end of a link
  std::filesystem::path temporary_;  ///< empty: written in place
  int descriptor_ = -1;
};

/// A read-only mapping of a whole file. Throws InvalidArgument if it cannot be opened.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Tells the kernel that these bytes are not needed again soon: keeps a streamed conversion's memory small.
  void release(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// An exclusive lock on `path` (created if missing), held until destruction. Throws InvalidArgument
/// naming the file if another process holds it, StorageError where there can be no lock.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int descriptor_ = -1;
};

/// XXH3-128 of the bytes as 32 hex digits: the digest of everything that this project writes.
std::string xxh3_hex(std::span<const std::byte> bytes);
std::string xxh3_hex(std::string_view bytes);

/// XXH3-128 over a file's bytes.
std::string xxh3_hex_of_file(const std::filesystem::path& path);

}  // namespace moe
