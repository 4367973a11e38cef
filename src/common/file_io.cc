#include "common/file_io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/xxh3_stream.h"

namespace moe {
namespace fs = std::filesystem;
namespace {

std::string system_text() { return std::strerror(errno); }

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

/// Opens for reading and returns the size of the regular file.
size_t checked_size(const Descriptor& file, const fs::path& path) {
  struct stat status {};
  if (file.value() < 0 || ::fstat(file.value(), &status) != 0) {
    throw InvalidArgument(concat("cannot read ", path.string(), ": ", system_text()));
  }
  if (!S_ISREG(status.st_mode)) throw InvalidArgument(concat("cannot read ", path.string(), ": not a regular file"));
  return static_cast<size_t>(status.st_size);
}

}  // namespace

std::string read_file(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  std::string bytes(checked_size(file, path), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.value(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw InvalidArgument(concat("cannot read ", path.string(), ": ", system_text()));
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return bytes;
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

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(path_.string() + ".tmp") {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw_storage("create", temporary_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) { write(std::as_bytes(std::span(bytes.data(), bytes.size()))); }

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_storage("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) throw_storage("sync", path_);
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) {
    ::unlink(temporary_.c_str());
    throw_storage("close", path_);
  }
  rename_durably(temporary_, path_);
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
    ::close(descriptor_);
    throw InvalidArgument(concat("another process is using ", path.parent_path().string(), " (it holds ", path.string(),
                                 "); wait for it, stop it, or choose another output folder"));
  }
}

FileLock::~FileLock() { ::close(descriptor_); }

std::string xxh3_hex(std::span<const std::byte> bytes) {
  Xxh3Stream digest;
  digest.add(bytes);
  return digest.hex();
}

std::string xxh3_hex(std::string_view bytes) { return xxh3_hex(std::as_bytes(std::span(bytes.data(), bytes.size()))); }

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
