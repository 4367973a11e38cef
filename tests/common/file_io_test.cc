#include "common/file_io.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "common/write_all.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(FileIoTest, AtomicWriteReplacesAndLeavesNoTemporary) {
  const testing::TempDir folder;
  write_file_atomically(folder / "a.txt", "one");
  write_file_atomically(folder / "a.txt", "two");
  EXPECT_EQ(read_file(folder / "a.txt"), "two");
  EXPECT_FALSE(std::filesystem::exists(folder / "a.txt.tmp"));
}

TEST(FileIoTest, UncommittedFileLeavesNothing) {
  const testing::TempDir folder;
  { AtomicFile(folder / "a.bin").write(std::string_view("half")); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

mode_t mode_of(const std::filesystem::path& path) {
  struct stat status {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_mode;
}

TEST(FileIoTest, AFileKeepsItsMode) {
  const testing::TempDir folder;
  write_file_atomically(folder / "secret", "old");
  for (const mode_t mode : {0600U, 0640U, 0444U}) {
    ASSERT_EQ(::chmod((folder / "secret").c_str(), mode), 0);
    AtomicFile file(folder / "secret");
    EXPECT_EQ(mode_of(folder / "secret.tmp") & 07777, mode) << "also while it is written";
    file.write(std::string_view("new"));
    file.commit();
    EXPECT_EQ(mode_of(folder / "secret") & 07777, mode);
    EXPECT_EQ(read_file(folder / "secret"), "new");
  }
}

TEST(FileIoTest, ALinkIsFollowed) {
  const testing::TempDir folder;
  make_directories(folder / "far");
  write_file_atomically(folder / "far/file", "old");
  std::filesystem::create_symlink("far/file", folder / "link");
  std::filesystem::create_symlink(folder / "link", folder / "link2");
  write_file_atomically(folder / "link2", "new");
  EXPECT_TRUE(S_ISLNK(mode_of(folder / "link2")));
  EXPECT_TRUE(S_ISLNK(mode_of(folder / "link")));
  EXPECT_EQ(read_file(folder / "far/file"), "new");
  std::filesystem::create_symlink("far/later", folder / "dangling");
  write_file_atomically(folder / "dangling", "made");
  EXPECT_EQ(read_file(folder / "far/later"), "made");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "far"), {}), 2) << "no temporary file is left";
  std::filesystem::create_symlink("loop", folder / "loop");
  EXPECT_THROW(write_file_atomically(folder / "loop", "x"), StorageError);
  EXPECT_THROW(write_file_atomically(folder / "far", "x"), StorageError) << "a folder";
}

TEST(FileIoTest, APipeIsWrittenInPlace) {
  const testing::TempDir folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] {
    std::ifstream in(folder / "pipe");
    std::getline(in, read, '\0');
  });
  {
    AtomicFile file(folder / "pipe");
    file.write(std::string_view("one "));
    file.write(std::string_view("two"));
    file.commit();
  }
  reader.join();
  EXPECT_EQ(read, "one two");
  EXPECT_TRUE(S_ISFIFO(mode_of(folder / "pipe")));
  EXPECT_FALSE(std::filesystem::exists(folder / "pipe.tmp"));
}

TEST(FileIoTest, ADeviceIsWrittenInPlace) {
  write_file_atomically("/dev/null", "gone");
  EXPECT_TRUE(S_ISCHR(mode_of("/dev/null")));
  EXPECT_THROW(write_file_atomically("/dev/full", "too much"), StorageError);
  EXPECT_TRUE(S_ISCHR(mode_of("/dev/full")));
}

/// By each name that it has.
std::vector<std::string> names_of(int descriptor) {
  const std::string number = std::to_string(descriptor);
  return {"/proc/self/fd/" + number, "/dev/fd/" + number, "/proc/" + std::to_string(::getpid()) + "/fd/" + number,
          "/proc/thread-self/fd/" + number};
}

TEST(FileIoTest, ADescriptorIsWrittenThroughAtItsPosition) {
  const testing::TempDir folder;
  for (const int append : {0, O_APPEND}) {
    const int descriptor = ::open((folder / "log").c_str(), O_WRONLY | O_CREAT | O_TRUNC | append, 0644);
    ASSERT_GE(descriptor, 0);
    EXPECT_EQ(::write(descriptor, "before", 6), 6);
    std::string expected = "before";
    for (const std::string& name : names_of(descriptor)) {
      write_file_atomically(name, " " + name);
      // What the owner writes next stands behind it.
      EXPECT_EQ(::write(descriptor, ";", 1), 1);
      expected += " " + name + ";";
    }
    std::filesystem::remove(folder / "link");
    std::filesystem::create_symlink(names_of(descriptor)[1], folder / "link");
    write_file_atomically(folder / "link", "by a link");
    ::close(descriptor);
    EXPECT_EQ(read_file(folder / "log"), expected + "by a link") << append;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2) << "no temporary file is left";
}

TEST(FileIoTest, ADescriptorMayBeASocketOrAPipe) {
  for (const bool is_socket : {true, false}) {
    std::array<int, 2> ends{};
    ASSERT_EQ(is_socket ? ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) : ::pipe(ends.data()), 0);
    for (const std::string& name : names_of(ends[1])) write_file_atomically(name, "x");
    write_file_atomically(names_of(ends[1])[0], "end");
    ::close(ends[1]);
    std::array<char, 16> read{};
    std::string all;
    for (ssize_t count = 0; (count = ::read(ends[0], read.data(), read.size())) > 0;)
      all.append(read.data(), static_cast<size_t>(count));
    ::close(ends[0]);
    EXPECT_EQ(all, "xxxxend") << is_socket;
  }
}

/// Somebody who shares the pipe made it non-blocking; it takes less than what is written, for a while nothing.
TEST(FileIoTest, ADescriptorThatDoesNotBlockIsWaitedFor) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_NONBLOCK), 0);
  const std::string bytes(1'000'003, 'y');
  size_t received = 0;
  std::thread reader([&] {
    std::vector<char> read(5000);
    for (pollfd ready{ends[0], POLLIN, 0}; ::poll(&ready, 1, -1) > 0;) {
      const ssize_t count = ::read(ends[0], read.data(), read.size());
      if (count <= 0) break;
      received += static_cast<size_t>(count);
    }
  });
  EXPECT_TRUE(write_all(ends[1], bytes));
  write_file_atomically(names_of(ends[1])[1], bytes);
  ::close(ends[1]);
  reader.join();
  ::close(ends[0]);
  EXPECT_EQ(received, 2 * bytes.size());
}

TEST(FileIoTest, ADescriptorThatCannotBeWrittenIsAStorageError) {
  EXPECT_THROW(write_file_atomically("/dev/fd/987654", "x"), StorageError) << "not open";
  const int read_only = ::open("/dev/null", O_RDONLY);
  EXPECT_THROW(write_file_atomically(names_of(read_only)[1], "x"), StorageError);
  ::close(read_only);
  EXPECT_FALSE(write_all(-1, "x"));
  EXPECT_EQ(errno, EBADF);
}

constexpr char kStillRoot[] = "cannot give root up";

/// In a child that has given root up, work; gives what it wrote on a pipe.
std::string as_nobody(const std::function<std::string()>& work) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    std::string said = kStillRoot;
    try {
      constexpr gid_t kGroups[] = {4242};
      if (::setgroups(1, kGroups) == 0 && ::setresgid(65534, 65534, 65534) == 0 &&
          ::setresuid(65534, 65534, 65534) == 0)
        said = work();
    } catch (const std::exception& error) {
      said = error.what();
    }
    ::_exit(write_all(ends[1], said) ? 0 : 1);
  }
  ::close(ends[1]);
  std::array<char, 1000> read{};
  const ssize_t count = ::read(ends[0], read.data(), read.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return std::string(read.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
}

/// A file of another owner: what was meant for that owner's programs and group is no longer.
TEST(FileIoTest, AModeThatWouldWidenAccessIsNotKept) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make files of other owners";
  const testing::TempDir folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0777), 0);
  struct Case {
    uid_t owner;
    gid_t group;
    mode_t mode, expected;
  };
  // As `nobody`, who is in the group 4242 but not in 4343.
  for (const Case& c :
       std::vector<Case>{{65534, 4242, 0640, 0640},  // ours, and a group that we may give
                         {0, 4242, 0664, 0664},      // another's, in a group that we are in
                         {0, 4242, 06775, 0775},
                         {0, 4343, 06770, 0700},  // a group of others: what everybody had
                         {0, 4343, 0660, 0600},
                         {0, 4343, 0664, 0644},
                         {0, 4343, 0644, 0644},
                         {65534, 4343, 02750, 0700},
                         {0, 4343, 0604, 0600}}) {  // the old group was kept out: now it is among the others
    const std::filesystem::path path = folder / "file";
    write_file_atomically(path, "old");
    if (::chown(path.c_str(), c.owner, c.group) != 0) GTEST_SKIP() << "this root may not give files to other owners";
    ASSERT_EQ(::chmod(path.c_str(), c.mode), 0);
    const std::string said = as_nobody([&] { return write_file_atomically(path, "new"), std::string("done"); });
    if (said == kStillRoot) GTEST_SKIP() << "this root may not become another user";
    EXPECT_EQ(said, "done");
    struct stat now {};
    ASSERT_EQ(::stat(path.c_str(), &now), 0);
    EXPECT_EQ(now.st_mode & 07777, c.expected) << std::oct << c.mode << " of " << std::dec << c.owner << ":" << c.group;
    EXPECT_EQ(now.st_uid, 65534U);
    EXPECT_EQ(now.st_gid, c.group == 4242 ? 4242U : 65534U);
    EXPECT_EQ(read_file(path), "new");
    ASSERT_EQ(::unlink(path.c_str()), 0);
  }
}

TEST(FileIoTest, FullDiskIsAStorageErrorThatNamesTheFile) {
  EXPECT_THAT([&] { AtomicFile file("/dev/full_does_not_exist/a"); },
              ThrowsMessage<StorageError>(HasSubstr("/dev/full_does_not_exist/a")));
}

TEST(FileIoTest, OfAnAbsolutePathOnlyTheLastFolderIsMade) {
  const testing::TempDir folder;
  make_last_directory(folder / "made/", "--out");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "made"));
  make_last_directory(folder / "made", "--out");
  write_file_atomically(folder / "file", "x");
  for (const auto& [below, what] : std::map<std::string, std::string>{{"no/such/place", "no is not there"},
                                                                      {"file/below", "file is not a folder"}}) {
    EXPECT_THAT([&] { make_last_directory(folder / below, "--out"); },
                ThrowsMessage<InvalidArgument>(::testing::AllOf(HasSubstr("--out " + (folder / below).string()),
                                                                HasSubstr((folder.path().string() + "/" + what)))));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "no"));
}

TEST(FileIoTest, MissingInputIsInvalidArgument) {
  EXPECT_THROW(read_file("/nowhere/at/all"), InvalidArgument);
  EXPECT_THROW(MappedFile("/nowhere/at/all"), InvalidArgument);
  EXPECT_THROW(read_file("/tmp"), InvalidArgument);
}

TEST(FileIoTest, SecondLockIsRefused) {
  const testing::TempDir folder;
  const FileLock first(folder / "lock");
  EXPECT_THROW(FileLock(folder / "lock"), InvalidArgument);
}

// XXH3 128 known answers (xxhsum -H128): empty input and "abc".
TEST(FileIoTest, DigestMatchesXxhsum) {
  EXPECT_EQ(xxh3_hex(std::string_view("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_hex(std::string_view("abc")), "06b05ab6733a618578af5f94892f3950");
}

}  // namespace
}  // namespace moe
