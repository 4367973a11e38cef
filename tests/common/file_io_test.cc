#include "common/file_io.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

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

TEST(FileIoTest, FullDiskIsAStorageErrorThatNamesTheFile) {
  try {
    AtomicFile file("/dev/full_does_not_exist/a");
    FAIL();
  } catch (const StorageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("/dev/full_does_not_exist/a"));
  }
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
