#include "common/job_folder.h"

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

TEST(JobFolderTest, AttemptsCountUpOverAttemptsAndOutputs) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  EXPECT_EQ(job.next_attempt(), 1);
  make_directories(job.attempt_path(1));
  EXPECT_EQ(job.next_attempt(), 2);
  make_directories(job.output_path(4));
  EXPECT_EQ(job.next_attempt(), 5);
  make_directories(root / "train/attempts/not-a-number");
  EXPECT_EQ(job.next_attempt(), 5);
}

// The layout is a contract with the coordinator and with people who look for their files.
TEST(JobFolderTest, NamesAreOfFourDigits) {
  EXPECT_EQ(JobFolder::attempt_name(7), "0007");
  EXPECT_EQ(JobFolder::output_name(12345), "output-t12345");
  const JobFolder job("/data", "train");
  EXPECT_EQ(job.attempt_path(1), "/data/train/attempts/0001");
  EXPECT_EQ(job.output_path(3), "/data/train/output-t0003");
  EXPECT_EQ(JobFolder("/data/train").output_path(3), job.output_path(3));
}

TEST(JobFolderTest, FinishedMeansARecord) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  make_directories(job.output_path(1));
  EXPECT_TRUE(job.records().empty()) << "an output without a record is not finished";
  job.record_finished(1, {{"digest", "abc"}, {"attempt", 1}});
  make_directories(job.output_path(2));
  job.record_finished(2, {{"digest", "def"}, {"attempt", 2}});
  ASSERT_EQ(job.records().size(), 2U);
  EXPECT_EQ(job.records()[0]["digest"], "def") << "newest first";
  EXPECT_EQ(job.records()[1]["digest"], "abc");
}

TEST(JobFolderTest, ATornRecordIsNotFinished) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  make_directories(job.output_path(1));
  write_file_atomically(job.output_path(1) / "STAGE.json", "{\"attempt\": 1, \"digest\": \"ab");
  EXPECT_TRUE(job.records().empty());
}

TEST(JobFolderTest, TellsWhatAnAttemptWasBegunWith) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  const nlohmann::json configuration = {{"config", {{"name", "train"}}}, {"inputs", {{"train.input", "d1"}}}};
  job.record_begun(1, configuration);
  job.record_begun(3, configuration);
  EXPECT_EQ(job.attempts(), (std::vector<int>{3, 1}));
  EXPECT_EQ(job.begun(3), configuration);
  EXPECT_TRUE(job.begun(2).is_null());
  std::filesystem::remove(job.attempt_path(3) / "inputs.json");
  EXPECT_FALSE(job.begun(3).contains("inputs")) << "an earlier version recorded none";
}

TEST(JobFolderTest, KeepsWhatWasBegunAfresh) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  EXPECT_TRUE(job.fresh().empty());
  const std::vector<nlohmann::json> entries{{{"attempt", 2}, {"launchers", {"a"}}}, {{"attempt", 3}}};
  job.record_fresh(entries);
  EXPECT_EQ(job.fresh(), entries);
  EXPECT_TRUE(job.attempts().empty()) << "nothing runs yet";
  EXPECT_EQ(job.next_attempt(), 3) << "an attempt below would not count";
  write_file_atomically(job.path() / "fresh.json", "[{\"attempt\": 2}, 3, {}, {\"attempt\": \"x\"}]");
  EXPECT_EQ(job.fresh().size(), 1U);
  write_file_atomically(job.path() / "fresh.json", "[{");
  EXPECT_TRUE(job.fresh().empty());
}

}  // namespace
}  // namespace moe
