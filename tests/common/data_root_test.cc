#include "common/data_root.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;
using ::testing::ThrowsMessage;

TEST(DataRootTest, AnIdIsReadWhereOneWasCreated) {
  const TempDir folder;
  EXPECT_EQ(read_root_id(folder.path()), std::nullopt);
  const std::string id = create_root_id(folder.path());
  EXPECT_EQ(read_root_id(folder.path()), id);
  EXPECT_EQ(create_root_id(folder.path()), id) << "never another in its place";
  std::ofstream(root_id_file(folder.path())) << "no id\n";
  EXPECT_THAT([&] { read_root_id(folder.path()); },
              ThrowsMessage<InvalidArgument>(HasSubstr("does not hold the id of a data root")));
}

// Only a file that is not there is no id: what cannot be looked at may hold one.
TEST(DataRootTest, AFolderThatMayNotBeSearchedIsNotOneWithoutAnId) {
  const TempDir folder;
  std::ofstream(folder / "file") << "x";
  EXPECT_EQ(read_root_id(folder / "nothing"), std::nullopt);
  EXPECT_EQ(read_root_id(folder / "file"), std::nullopt);
  fs::create_symlink(".moe-root-id", root_id_file(folder.path()));
  EXPECT_THAT([&] { read_root_id(folder.path()); },
              ThrowsMessage<StorageError>(HasSubstr("cannot read " + root_id_file(folder.path()).string() +
                                                    ": Too many levels of symbolic links")));
  const fs::path closed = folder / "closed";
  fs::create_directory(closed);
  const std::string id = create_root_id(closed);
  fs::permissions(closed, fs::perms::none);
  const bool is_root = ::geteuid() == 0;
  constexpr uid_t kNobody = 65534;
  if (!is_root || ::seteuid(kNobody) == 0) {
    EXPECT_THAT([&] { read_root_id(closed); }, ThrowsMessage<StorageError>(HasSubstr("Permission denied")));
    EXPECT_THROW(create_root_id(closed), StorageError);
  }
  if (is_root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  fs::permissions(closed, fs::perms::owner_all);
  EXPECT_EQ(read_root_id(closed), id);
}

TEST(DataRootTest, WhoeverCreatesAtOnceGetsTheSame) {
  constexpr int kRounds = 20, kThreads = 8;
  for (int round = 0; round < kRounds; ++round) {
    const TempDir folder;
    std::vector<std::string> ids(kThreads);
    std::vector<std::thread> threads;
    for (std::string& id : ids) threads.emplace_back([&] { id = create_root_id(folder.path()); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()),
              std::set<std::string>{read_root_id(folder.path()).value()});
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1)
        << "and nothing is left beside it";
  }
}

}  // namespace
}  // namespace moe
