#include "train/metrics_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_lines.h"
#include "common/log.h"
#include "testing/peak_memory.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using nlohmann::json;

std::vector<int64_t> steps_in(const std::filesystem::path& attempt) {
  std::vector<int64_t> steps;
  for (const json& line : read_json_lines(attempt / "metrics.jsonl")) steps.push_back(line.at("step"));
  return steps;
}

class MetricsLogTest : public ::testing::Test {
 protected:
  std::filesystem::path attempt(int number) const { return attempts_ / ("000" + std::to_string(number)); }
  void run(int number, int64_t resume_step, int64_t last_step, int resume_attempt = 0) const {
    MetricsLog log(attempts_.path(), attempt(number), resume_step, resume_attempt);
    for (int64_t step = resume_step + 1; step <= last_step; ++step) log.write({{"step", step}, {"attempt", number}});
  }
  testing::TempDir attempts_;
};

TEST_F(MetricsLogTest, EachStepStandsOnceAfterAResume) {
  run(1, 0, 7);
  run(2, 5, 8);
  EXPECT_EQ(steps_in(attempt(1)), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7})) << "an attempt's own file is left alone";
  EXPECT_EQ(steps_in(attempt(2)), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  const std::vector<json> lines = read_json_lines(attempt(2) / "metrics.jsonl");
  EXPECT_EQ(lines[4]["attempt"], 1);
  EXPECT_EQ(lines[5]["attempt"], 2) << "step 6 was repeated: the new line counts";
}

TEST_F(MetricsLogTest, ATornLastLineIsDropped) {
  run(1, 0, 3);
  std::ofstream(attempt(1) / "metrics.jsonl", std::ios::app) << R"({"step": 4, "lo)";
  run(2, 3, 5);
  EXPECT_EQ(steps_in(attempt(2)), (std::vector<int64_t>{1, 2, 3, 4, 5}));
  const std::string text = read_file(attempt(2) / "metrics.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
}

TEST_F(MetricsLogTest, WithoutACheckpointItStartsEmpty) {
  run(1, 0, 3);
  run(2, 0, 2);
  EXPECT_EQ(steps_in(attempt(2)), (std::vector<int64_t>{1, 2}));
}

TEST_F(MetricsLogTest, AnAttemptThatDiedEarlyDoesNotHideTheOneBefore) {
  run(1, 0, 9);
  run(2, 4, 4);  // took an older checkpoint and died at once
  run(3, 8, 9);
  EXPECT_EQ(steps_in(attempt(3)), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_F(MetricsLogTest, TheAttemptOfTheCheckpointIsTheOneToGoOnFrom) {
  run(1, 0, 9);
  run(2, 0, 9);  // another configuration, begun beside the first
  run(3, 6, 8, 1);
  std::vector<int> writers;
  for (const json& line : read_json_lines(attempt(3) / "metrics.jsonl")) writers.push_back(line.at("attempt"));
  EXPECT_EQ(writers, (std::vector<int>{1, 1, 1, 1, 1, 1, 3, 3}));
}

TEST_F(MetricsLogTest, ALineIsReadableAsSoonAsItIsWritten) {
  MetricsLog log(attempts_.path(), attempt(1), 0);
  log.write({{"step", 1}});
  EXPECT_EQ(steps_in(attempt(1)), std::vector<int64_t>{1});
}

TEST_F(MetricsLogTest, AFolderThatCannotBeMadeIsAStorageError) {
  write_file_atomically(attempts_ / "file", "");
  EXPECT_THROW(MetricsLog(attempts_.path(), attempts_ / "file" / "0001", 0), StorageError);
}

/// No file of this process may grow beyond `bytes` while it lives: what a full disk does, also for root.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(MetricsLogTest, LinesWaitForRoomOnTheDisk) {
  set_log_level(LogLevel::kError);
  MetricsLog log(attempts_.path(), attempt(1), 0);
  log.write({{"step", 1}});
  const auto size = std::filesystem::file_size(log.path());
  {
    const FullDisk full(size + 5);
    log.write({{"step", 2}});
    log.write({{"step", 3}});
    EXPECT_THROW(log.flush(), StorageError);
    EXPECT_EQ(std::filesystem::file_size(log.path()), size) << "no half line stays";
  }
  log.write({{"step", 4}});
  EXPECT_NO_THROW(log.flush());
  EXPECT_EQ(read_file(log.path()), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
}

TEST_F(MetricsLogTest, WhatWaitsIsBoundedAndWhatIsDroppedIsCounted) {
  set_log_level(LogLevel::kError);
  const size_t line = std::string("{\"step\":1}\n").size();
  MetricsLog log(attempts_.path(), attempt(1), 0, 0, /*most_waiting=*/3 * line);
  log.write({{"step", 1}});
  {
    const FullDisk full(line);
    for (int64_t step = 2; step <= 8; ++step) log.write({{"step", step}});
  }
  set_log_level(LogLevel::kWarning);
  ::testing::internal::CaptureStderr();
  log.write({{"step", 9}});
  const std::string told = ::testing::internal::GetCapturedStderr();
  set_log_level(LogLevel::kError);
  EXPECT_EQ(steps_in(attempt(1)), (std::vector<int64_t>{1, 6, 7, 8, 9}));
  EXPECT_NE(told.find("event=metrics_lines_dropped lines=4 path=" + log.path().string()), std::string::npos) << told;
}

TEST_F(MetricsLogTest, ResumingHoldsNoMoreOfALongLogThanOfAShortOne) {
  // 8 MB of lines, which parsed would be many times that.
  const json load(std::vector<int>(400, 7));
  std::filesystem::create_directories(attempt(1));
  std::ofstream file(attempt(1) / "metrics.jsonl");
  constexpr int64_t kSteps = 10'000;
  for (int64_t step = 1; step <= kSteps; ++step) file << json{{"step", step}, {"expert_load", load}}.dump() << "\n";
  file.close();
  const double growth = testing::peak_growth([&] { MetricsLog(attempts_.path(), attempt(2), kSteps - 1); });
  EXPECT_EQ(steps_in(attempt(2)).size(), kSteps - 1);
  if (growth < 0) GTEST_SKIP() << "this system does not tell the peak of a process's memory";
  EXPECT_LT(growth, 4 * testing::kMib);
}

}  // namespace
}  // namespace moe
