#include "coordinator/data_root_hold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/data_root.h"
#include "common/error.h"
#include "coordinator/store.h"
#include "testing/message_of.h"
#include "testing/temp_dir.h"

// Which folder a store takes for its data root. The program itself is tried in process_test.cc.
namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TempDir;

/// As a store of schema 1 is after its migration: it knows of jobs, and of no root.
void write_old_store(const fs::path& file) {
  Store store(file);
  store.load();
  Changes changes;
  changes.pipelines.emplace_back().set_id("p");
  for (const auto& [id, attempt] : {std::pair("p-a", 1), std::pair("p-b", 0)}) {
    v1::Job& job = changes.jobs.emplace_back();
    job.set_id(id);
    job.set_pipeline_id("p");
    job.set_attempt(attempt);
  }
  store.commit(std::move(changes));
}

template <typename E>
std::string refusal(const fs::path& root, Store& store) {
  return testing::message_of<E>([&] { const DataRootHold hold(root, store); });
}

TEST(DataRootHoldTest, AnOldStoreTakesNoEmptyFolderForTheOneWithItsWork) {
  const TempDir folder;
  const fs::path root = folder / "data";
  write_old_store(folder / "moe.db");
  for (const bool is_there : {false, true}) {  // not mounted: no folder, or an empty one
    if (is_there) fs::create_directory(root);
    Store store(folder / "moe.db");
    EXPECT_THAT(refusal<InvalidArgument>(root, store),
                AllOf(HasSubstr("1 job that was begun (p-a)"), HasSubstr(root.string() + " has no folder of any"),
                      HasSubstr("mount the storage"), HasSubstr(" > " + root_id_file(root).string())));
    EXPECT_EQ(fs::exists(root), is_there) << "nothing is made where the storage should be";
    EXPECT_TRUE(!is_there || fs::is_empty(root)) << "nor anything in it";
    EXPECT_EQ(store.root_id(), "");
  }
  fs::create_directory(root / "p-a");
  Store store(folder / "moe.db");
  const DataRootHold hold(root, store);
  EXPECT_EQ(store.root_id(), hold.id());
  EXPECT_EQ(read_root_id(root), hold.id());
}

TEST(DataRootHoldTest, ARootThatCannotBeLookedAtIsNotTakenForANewOne) {
  const TempDir folder;
  fs::create_symlink("root", folder / "root");  // each leads to itself, which no user may follow
  fs::create_directory(folder / "data");
  fs::create_symlink(root_id_file("").filename(), root_id_file(folder / "data"));
  for (const char* name : {"root", "data"}) {
    Store store(folder / "moe.db");
    EXPECT_THAT(refusal<StorageError>(folder / name, store),
                AllOf(HasSubstr(name), HasSubstr("cannot "), HasSubstr("Too many levels of symbolic links")))
        << name;
    EXPECT_EQ(store.root_id(), "");
  }
  EXPECT_TRUE(fs::is_symlink(root_id_file(folder / "data"))) << "what is there stays";
}

}  // namespace
}  // namespace moe
