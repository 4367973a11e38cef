#include "common/file_io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/standard_output.h"
#include "common/write_all.h"
#include "common/xxh3_stream.h"

namespace moe {
namespace fs = std::filesystem;
namespace {

std::string system_text() {
  return std::strerror(errno);
}

/// What a user can do about a failed write.
std::string advice() {
  if (errno == ENOSPC || errno == EDQUOT) return "; free some space or choose another output folder";
  if (errno == EROFS || errno == EACCES || errno == EPERM) return "; choose an output folder that you can write to";
  return "";
}

[[noreturn]] void throw_storage(const char* verb, const fs::path& path) {
  throw StorageError(concat("cannot ", verb, " ", path.string(), ": ", system_text(), advice()));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : value_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

/// Of a link that leads nowhere: where to. Empty for anything else.
std::string dangling_target(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_symlink(fs::symlink_status(path, ignored)) || fs::exists(path, ignored)) return "";
  return fs::read_symlink(path, ignored).string();
}

[[noreturn]] void throw_dangling(const fs::path& path, const std::string& target) {
  throw InvalidArgument(concat("cannot read ", path.string(), ": it is a link to ", target,
                               ", which is not there; fetch that file again or copy it here"));
}

/// Whether the file begins as specified by https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
bool begins_as_lfs_pointer(const Descriptor& file, size_t size) {
  constexpr std::string_view kBegin = "version https://git-lfs.github.com/spec/";
  constexpr size_t kPointersAreSmaller = 1024;
  if (size < kBegin.size() || size >= kPointersAreSmaller) return false;
  std::string begin(kBegin.size(), '\0');
  return ::pread(file.value(), begin.data(), begin.size(), 0) == static_cast<ssize_t>(begin.size()) && begin == kBegin;
}

[[noreturn]] void throw_lfs_pointer(const fs::path& path) {
  throw InvalidArgument(concat("cannot read ", path.string(),
                               ": it is a Git LFS pointer, not the file that it stands for; run `git lfs pull` in ",
                               path.has_parent_path() ? path.parent_path().string() : ".",
                               ", or download the file itself"));
}

/// Opens for reading and returns the size of the regular file.
size_t checked_size(const Descriptor& file, const fs::path& path) {
  struct stat status {};
  if (file.value() < 0 || ::fstat(file.value(), &status) != 0) {
    const std::string reason = system_text();
    if (const std::string target = dangling_target(path); !target.empty()) throw_dangling(path, target);
    throw InvalidArgument(concat("cannot read ", path.string(), ": ", reason));
  }
  if (!S_ISREG(status.st_mode)) throw InvalidArgument(concat("cannot read ", path.string(), ": not a regular file"));
  const auto size = static_cast<size_t>(status.st_size);
  if (begins_as_lfs_pointer(file, size)) throw_lfs_pointer(path);
  return size;
}

/// Where bytes written to `path` land.
struct Destination {
  fs::path path;  ///< behind all links; it need not exist
  std::optional<int>
      descriptor;  ///< that a link of /proc stands for, as /dev/stdout does: a new file in its place would reach nobody
  bool is_of_another = false;  ///< the same of another process, whose descriptor cannot be had
};

/// Of a path in /proc/self/fd, by any name of that folder: which descriptor of this process it is.
std::optional<int> own_descriptor(const fs::path& folder, const fs::path& name) {
  std::error_code error;
  const fs::path self = fs::canonical("/proc/self", error), thread = fs::canonical("/proc/thread-self", error);
  const std::string& digits = name.native();
  int descriptor = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), descriptor);
  const bool is_number = problem == std::errc() && end == digits.data() + digits.size();
  return is_number && (folder == self / "fd" || folder == thread / "fd") ? std::optional(descriptor) : std::nullopt;
}

Destination destination_of(fs::path path) {
  constexpr int kMostLinks = 40;  // Linux's own limit
  bool is_of_another = false;
  for (int links = 0;; ++links) {
    if (links > kMostLinks) throw StorageError(concat("cannot write ", path.string(), ": too many symbolic links"));
    std::error_code error;
    const fs::path folder = fs::canonical(path.parent_path(), error);  // of /dev/fd/3: /proc/123/fd
    if (!error && folder.filename() == "fd" && folder.native().starts_with("/proc/")) {
      if (const std::optional<int> descriptor = own_descriptor(folder, path.filename()))
        return {path, descriptor, false};
      is_of_another = true;
    }
    if (!fs::is_symlink(fs::symlink_status(path, error))) return {path, {}, is_of_another};
    const fs::path target = fs::read_symlink(path, error);
    if (error) {
      errno = error.value();
      throw_storage("follow", path);
    }
    path = path.parent_path() / target;  // an absolute target stands alone
  }
}

/// Gives the open file the owner and the mode of the one whose place it takes, as far as we may. Nobody gets more
/// rights than the old mode gave: under another owner or group nothing runs in that one's name, and where the group is
/// another, members of either group have what both the group and the others had.
bool take_over(int descriptor, const struct stat& old) {
  // The owner first: a change of owner takes bits of the mode away.
  if (::fchown(descriptor, old.st_uid, old.st_gid) != 0) {
    [[maybe_unused]] const int of_group =
        ::fchown(descriptor, static_cast<uid_t>(-1), old.st_gid);  // what came of it is looked up
  }
  struct stat now {};
  if (::fstat(descriptor, &now) != 0) return false;
  mode_t mode = old.st_mode & 07777;
  if (now.st_uid != old.st_uid || now.st_gid != old.st_gid) mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
  if (now.st_gid != old.st_gid) {
    const mode_t both = mode >> 3 & mode & S_IRWXO;
    mode = (mode & ~static_cast<mode_t>(S_IRWXG | S_IRWXO)) | both << 3 | both;
  }
  return ::fchmod(descriptor, mode) == 0;
}

/// The whole file; nullopt, with the reason in errno, if it cannot be read.
std::optional<std::string> bytes_of(const Descriptor& file, size_t size) {
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.value(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::nullopt;
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

bool is_there(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status)) return true;
  if (status.type() != fs::file_type::not_found)
    throw InvalidArgument(concat("cannot read ", path.string(), ": ", error.message()));
  if (const std::string target = dangling_target(path); !target.empty()) throw_dangling(path, target);
  return false;
}

void refuse_lfs_pointer(const fs::path& path) {
  if (is_lfs_pointer(path)) throw_lfs_pointer(path);
}

bool is_lfs_pointer(const fs::path& path) {
  struct stat status {};
  // A pipe must not be opened to look: its writer would notice.
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  const Descriptor file(path, O_RDONLY);
  return file.value() >= 0 && begins_as_lfs_pointer(file, static_cast<size_t>(status.st_size));
}

std::string read_file(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  if (std::optional<std::string> bytes = bytes_of(file, checked_size(file, path))) return *std::move(bytes);
  throw InvalidArgument(concat("cannot read ", path.string(), ": ", system_text()));
}

std::optional<std::string> read_file_if_there(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  const int reason = errno;
  if (file.value() < 0 && (reason == ENOENT || reason == ENOTDIR)) {
    if (const std::string target = dangling_target(path); !target.empty()) throw_dangling(path, target);
    return std::nullopt;
  }
  if (file.value() >= 0) {
    if (std::optional<std::string> bytes = bytes_of(file, checked_size(file, path))) return bytes;
  } else {
    errno = reason;
  }
  throw StorageError(
      concat("cannot read ", path.string(), ": ", system_text(), "; whether it is there cannot be told"));
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    errno = error.value();
    throw_storage("create folder", path);
  }
}

void make_last_directory(fs::path path, const char* flag) {
  if (!path.has_filename()) path = path.parent_path();  // a slash at the end
  std::error_code error;
  if (fs::is_directory(path, error)) return;
  if (path.is_absolute() && !fs::is_directory(path.parent_path(), error)) {
    fs::path missing = path.parent_path();
    while (missing.has_parent_path() && missing != missing.parent_path() && !fs::exists(missing.parent_path(), error))
      missing = missing.parent_path();
    throw InvalidArgument(concat(flag, " ", path.string(), ": ", missing.string(),
                                 fs::exists(missing, error) ? " is not a folder" : " is not there",
                                 "; mount the storage, correct the path, or make the folder first"));
  }
  make_directories(path);
}

void sync_directory(const fs::path& path) {
  const Descriptor folder(path.empty() ? fs::path(".") : path, O_RDONLY | O_DIRECTORY);
  if (folder.value() < 0 || ::fsync(folder.value()) != 0) throw_storage("sync folder", path);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw StorageError(concat("cannot rename ", from.string(), " to ", to.string(), ": ", system_text(), advice()));
  }
  sync_directory(to.parent_path());
  if (from.parent_path() != to.parent_path()) sync_directory(from.parent_path());
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  struct stat old {};
  const bool exists = ::stat(path_.c_str(), &old) == 0;
  const Destination destination = destination_of(path_);
  if (destination.descriptor) {
    // The descriptor itself: opened anew by its name, a file would be written from another position, and a socket not
    // at all.
    descriptor_ = ::fcntl(*destination.descriptor, F_DUPFD_CLOEXEC, 0);
    if (descriptor_ < 0) throw_storage("write", path_);
    return;
  }
  if (destination.is_of_another || (exists && !S_ISREG(old.st_mode))) {
    // Appended: it may be a file that the other process has written to.
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (descriptor_ < 0) throw_storage("write", path_);
    return;
  }
  path_ = destination.path;
  temporary_ = path_.string() + ".tmp";
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, exists ? 0600 : 0644);
  if (descriptor_ < 0) throw_storage("create", temporary_);
  // Before there is anything to read in it.
  if (exists && !take_over(descriptor_, old)) {
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    ::unlink(temporary_.c_str());
    errno = error;
    throw_storage("set the mode of", temporary_);
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void AtomicFile::write(std::string_view bytes) {
  if (write_all(descriptor_, bytes)) return;
  if (errno == EPIPE) end_by_broken_pipe();
  throw_storage("write", path_);
}

void AtomicFile::commit() {
  // Pipes and most devices have nothing to sync.
  const bool is_in_place = temporary_.empty();
  if (::fsync(descriptor_) != 0 && !(is_in_place && (errno == EINVAL || errno == ENOTSUP || errno == EROFS)))
    throw_storage("sync", path_);
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) {
    if (!is_in_place) ::unlink(temporary_.c_str());
    throw_storage("close", path_);
  }
  if (!is_in_place) rename_durably(temporary_, path_);
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  size_ = checked_size(file, path);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.value(), 0);
  if (address == MAP_FAILED) throw InvalidArgument(concat("cannot map ", path.string(), ": ", system_text()));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (static_cast<size_t>(part.data() - data_) + page - 1) / page * page;
  const size_t end = (static_cast<size_t>(part.data() - data_) + part.size()) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

FileLock::FileLock(const fs::path& path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw_storage("create lock", path);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    ::close(descriptor_);
    errno = reason;
    if (reason != EWOULDBLOCK) throw_storage("lock", path);
    throw InvalidArgument(concat("another process is using ", path.parent_path().string(), " (it holds ", path.string(),
                                 "); wait for it, stop it, or choose another output folder"));
  }
}

FileLock::~FileLock() {
  ::close(descriptor_);
}

std::string xxh3_hex(std::span<const std::byte> bytes) {
  Xxh3Stream digest;
  digest.add(bytes);
  return digest.hex();
}

std::string xxh3_hex(std::string_view bytes) {
  return xxh3_hex(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

std::string xxh3_hex_of_file(const fs::path& path) {
  // Read piece by piece: the pages of a mapping would count as this process's memory.
  const Descriptor file(path, O_RDONLY);
  checked_size(file, path);
  Xxh3Stream digest;
  std::vector<std::byte> piece(size_t{1} << 20);
  while (true) {
    const ssize_t count = ::read(file.value(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw InvalidArgument(concat("cannot read ", path.string(), ": ", system_text()));
    if (count == 0) return digest.hex();
    digest.add(std::span(piece.data(), static_cast<size_t>(count)));
  }
}

}  // namespace moe
