#include "coordinator/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <chrono>
#include <fstream>
#include <future>
#include <iostream>

#include "common/error.h"
#include "common/file_io.h"
#include "testing/message_of.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TempDir;

v1::Pipeline pipeline(const std::string& id, const std::string& phase = "RUNNING") {
  v1::Pipeline record;
  record.set_id(id);
  record.set_phase(phase);
  return record;
}

v1::Job job(const std::string& id, int attempt) {
  v1::Job record;
  record.set_id(id);
  record.set_pipeline_id("p");
  record.set_state(v1::JOB_STATE_RUNNING);
  record.set_attempt(attempt);
  return record;
}

v1::Event event(int64_t revision) {
  v1::Event record;
  record.set_revision(revision);
  record.set_type("QUEUED");
  return record;
}

Changes attempt_of(int number) {
  Changes changes;
  if (number == 1) changes.pipelines.push_back(pipeline("p"));
  changes.jobs.push_back(job("p-a", number));
  changes.events.push_back(event(number));
  return changes;
}

void wait_until_durable(Store& store) {
  std::promise<void> durable;
  store.after_commit([&] { durable.set_value(); });
  durable.get_future().wait();
}

void execute_sql(const fs::path& file, const std::string& sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(file.c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(database);
  sqlite3_close(database);
}

std::string error_of_opening(const fs::path& file) {
  return testing::message_of([&] { const Store store(file); });
}

TEST(StoreTest, ReopenedItGivesWhatWasCommitted) {
  const TempDir folder;
  {
    Store store(folder / "deep/moe.db");
    EXPECT_TRUE(store.load().pipelines.empty());
    Changes changes;
    changes.pipelines.push_back(pipeline("p"));
    changes.jobs = {job("p-a", 1), job("p-b", 2)};
    changes.gangs.emplace_back().set_id("g1");
    changes.gangs.emplace_back().set_id("g2");
    changes.gang_faults.emplace_back().set_launcher_id("l1");
    changes.gang_faults.emplace_back().set_launcher_id("l2");
    changes.artifacts.emplace_back().set_id("p-a/output-t0001");
    changes.artifacts.back().set_job_id("p-a");
    changes.events = {event(1), event(2)};
    changes.requests.push_back({"r1", "Submit", "digest", std::string("\0answer", 7), 5});
    changes.requests.push_back({"r2", "Cancel", "digest", "", 900});
    for (const int step : {10, 20, 30}) {
      StoredPoint& point = changes.points.emplace_back();
      point.job_id = "p-a";
      point.point.set_step(step);
      (*point.point.mutable_values())["loss"] = step * 0.5;
    }
    store.commit(std::move(changes));
    Changes more;
    more.pipelines.push_back(pipeline("p", "SUCCEEDED"));
    more.removed_gangs = {"g1"};
    more.removed_gang_faults = {"l1"};
    more.removed_points = {{"p-a", 20}};
    more.forget_requests_before = 100;
    store.commit(std::move(more));
  }
  Store store(folder / "deep/moe.db");
  const StoredState state = store.load();
  ASSERT_EQ(state.pipelines.size(), 1u);
  EXPECT_EQ(state.pipelines[0].phase(), "SUCCEEDED");
  ASSERT_EQ(state.jobs.size(), 2u);
  EXPECT_EQ(state.jobs[1].attempt(), 2);
  ASSERT_EQ(state.gangs.size(), 1u);
  EXPECT_EQ(state.gangs[0].id(), "g2");
  ASSERT_EQ(state.gang_faults.size(), 1u);
  EXPECT_EQ(state.gang_faults[0].launcher_id(), "l2");
  ASSERT_EQ(state.artifacts.size(), 1u);
  ASSERT_EQ(state.events.size(), 2u);
  EXPECT_EQ(state.events[1].revision(), 2);
  ASSERT_EQ(state.requests.size(), 1u);
  EXPECT_EQ(state.requests[0].request_id, "r2");
  ASSERT_EQ(state.points.size(), 2u);
  EXPECT_EQ(state.points[1].point.step(), 30);
  EXPECT_EQ(state.points[1].point.values().at("loss"), 15);
}

TEST(StoreTest, OrderOfCallsIsOrderOfCommits) {
  constexpr int kCommits = 2000;
  const TempDir folder;
  std::atomic<int> groups{0};
  {
    Store store(folder / "moe.db");
    store.load();
    store.on_commit([&](double) { ++groups; });
    for (int i = 1; i <= kCommits; ++i) store.commit(attempt_of(i));
  }
  Store store(folder / "moe.db");
  const StoredState state = store.load();
  EXPECT_EQ(state.jobs.at(0).attempt(), kCommits);
  EXPECT_EQ(state.events.size(), static_cast<size_t>(kCommits));
  std::cout << kCommits << " changes in " << groups << " transactions\n";
  EXPECT_LT(groups, kCommits / 4);
}

// What done() may promise is taken at its word: the files as they are at that moment, opened as another machine would.
TEST(StoreTest, DoneIsCalledWhenTheChangeIsInTheFiles) {
  constexpr int kRounds = 60;
  const TempDir folder;
  Store store(folder / "moe.db");
  store.load();
  int missing = 0;
  for (int i = 1; i <= kRounds; ++i) {
    store.commit(attempt_of(i));
    std::promise<void> done;
    store.after_commit([&] {
      fs::create_directories(folder / "copy");
      for (const char* name : {"moe.db", "moe.db-wal"}) {
        std::ofstream(folder / "copy" / name, std::ios::binary) << read_file(folder / name);
      }
      done.set_value();
    });
    done.get_future().wait();
    Store copy(folder / "copy/moe.db");
    const StoredState state = copy.load();
    missing += state.jobs.size() != 1 || state.jobs[0].attempt() != i || state.events.size() != static_cast<size_t>(i);
  }
  std::cout << kRounds << " rounds, " << missing << " without what was promised\n";
  EXPECT_EQ(missing, 0);
}

TEST(StoreTest, AnswersAtOnceWhenNothingIsPending) {
  const TempDir folder;
  Store store(folder / "moe.db");
  store.load();
  store.commit(attempt_of(1));
  wait_until_durable(store);
  bool called = false;
  store.after_commit([&] { called = true; });
  EXPECT_TRUE(called);
  store.commit(Changes{});
  called = false;
  store.after_commit([&] { called = true; });
  EXPECT_TRUE(called);
}

TEST(StoreTest, ASecondOneIsRefused) {
  const TempDir folder;
  Store store(folder / "moe.db");
  const auto started = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of_opening(folder / "moe.db"),
              AllOf(HasSubstr("moe.db"), HasSubstr("in use by another moe-coordinator"), HasSubstr("--store")));
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(1));
  store.load();
  store.commit(attempt_of(1));  // and the first one does not mind
  wait_until_durable(store);
}

TEST(StoreTest, WhatItCannotUseIsRefusedByName) {
  const TempDir folder;
  { const Store store(folder / "newer.db"); }
  execute_sql(folder / "newer.db", "PRAGMA user_version = 99");
  EXPECT_THAT(error_of_opening(folder / "newer.db"),
              AllOf(HasSubstr("newer.db"), HasSubstr("newer moe-coordinator (schema 99, this one knows 3)")));

  std::ofstream(folder / "text.db") << std::string(5000, 'x');
  EXPECT_THAT(error_of_opening(folder / "text.db"), AllOf(HasSubstr("text.db"), HasSubstr("not a database")));
  EXPECT_EQ(read_file(folder / "text.db"), std::string(5000, 'x'));

  execute_sql(folder / "other.db", "CREATE TABLE recipes (name TEXT)");
  EXPECT_THAT(error_of_opening(folder / "other.db"), AllOf(HasSubstr("other.db"), HasSubstr("another program")));

  fs::create_directories(folder / "folder.db");
  EXPECT_THAT(error_of_opening(folder / "folder.db"), AllOf(HasSubstr("folder.db"), HasSubstr("unable to open")));
}

TEST(StoreTest, AStoreOfSchema1IsMigratedAfterACopy) {
  const TempDir folder;
  const fs::path file = folder / "moe.db";
  {
    Store store(file);
    store.load();
    store.commit(attempt_of(1));
  }
  execute_sql(file, "DROP TABLE setting; DROP TABLE gang_faults; PRAGMA user_version = 1");
  {
    Store store(file);
    EXPECT_EQ(store.root_id(), "");
    store.set_root_id("0123");
    EXPECT_EQ(store.load().jobs.size(), 1u);
  }
  EXPECT_TRUE(fs::exists(folder / "moe.db.before-schema-3"));
  EXPECT_EQ(Store(file).root_id(), "0123");
}

// A program of schema 2 stored the settings of conversions under other numbers.
TEST(StoreTest, ConversionsOfSchema2AreReadWhereTheirSettingsStandNow) {
  const TempDir folder;
  const fs::path file = folder / "moe.db";
  v1::Stage flat;
  flat.mutable_convert()->set_input("dense");
  auto& unknown = *flat.convert().GetReflection()->MutableUnknownFields(flat.mutable_convert());
  unknown.AddLengthDelimited(2, "sequential");
  unknown.AddVarint(3, 8);
  {
    Store store(file);
    store.load();
    Changes changes = attempt_of(1);
    *changes.pipelines[0].mutable_spec()->add_stages() = flat;
    *changes.jobs[0].mutable_stage() = flat;
    store.commit(std::move(changes));
  }
  execute_sql(file, "PRAGMA user_version = 2");
  const auto expect_sections = [](const StoredState& state) {
    for (const v1::Stage& stage : {state.pipelines.at(0).spec().stages(0), state.jobs.at(0).stage()}) {
      EXPECT_EQ(stage.convert().input(), "dense");
      EXPECT_EQ(stage.convert().ffn().method(), "sequential");
      EXPECT_EQ(stage.convert().ffn().experts(), 8);
      EXPECT_TRUE(stage.convert().GetReflection()->GetUnknownFields(stage.convert()).empty());
    }
  };
  {
    Store store(file);
    const StoredState state = store.load();
    EXPECT_TRUE(fs::exists(folder / "moe.db.before-schema-3"));
    expect_sections(state);
    Changes again;  // as the next change of the job writes it
    again.pipelines = state.pipelines;
    again.jobs = state.jobs;
    store.commit(std::move(again));
  }
  expect_sections(Store(file).load());
}

TEST(StoreTest, ItsFolderIsMadeButNotAWholePath) {
  const TempDir folder;
  EXPECT_THAT(error_of_opening(folder / "not/mounted/moe.db"),
              AllOf(HasSubstr("--store"), HasSubstr((folder / "not").string() + " is not there")));
  EXPECT_FALSE(fs::exists(folder / "not"));
  EXPECT_EQ(error_of_opening(folder / "one/moe.db"), "nothing was thrown");
}

TEST(StoreTest, ADamagedRecordIsCorruption) {
  const TempDir folder;
  {
    Store store(folder / "moe.db");
    store.load();
    store.commit(attempt_of(1));
  }
  execute_sql(folder / "moe.db", "UPDATE job SET record = x'ffffff'");
  Store store(folder / "moe.db");
  EXPECT_THROW(store.load(), Corruption);
}

TEST(StoreDeathTest, AFailedCommitEndsTheProcessBeforeAnyAnswer) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TempDir folder;
  EXPECT_EXIT(
      {
        Store store(folder / "moe.db");
        store.load();
        Changes changes;
        changes.jobs.push_back(job("nobody-a", 1));  // of a pipeline that is not there: the foreign key refuses it
        store.commit(std::move(changes));
        store.after_commit([] { ::_exit(0); });
        std::promise<void>().get_future().wait_for(std::chrono::seconds(20));
      },
      ::testing::ExitedWithCode(74), "store_failed.*FOREIGN KEY");
}

}  // namespace
}  // namespace moe
