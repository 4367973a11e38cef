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

TEST(JobFolderTest, FinishedMeansARecordWithTheSameDigest) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  make_directories(job.output_path(1));
  EXPECT_FALSE(job.finished("abc")) << "an output without a record is not finished";
  job.record_finished(1, {{"digest", "abc"}, {"attempt", 1}});
  make_directories(job.output_path(2));
  job.record_finished(2, {{"digest", "def"}, {"attempt", 2}});
  ASSERT_TRUE(job.finished("abc"));
  EXPECT_EQ((*job.finished("abc"))["attempt"], 1);
  EXPECT_EQ((*job.finished("def"))["attempt"], 2);
  EXPECT_FALSE(job.finished("xyz"));
}

TEST(JobFolderTest, ATornRecordIsNotFinished) {
  const testing::TempDir root;
  const JobFolder job(root.path(), "train");
  make_directories(job.output_path(1));
  write_file_atomically(job.output_path(1) / "STAGE.json", "{\"digest\": \"ab");
  EXPECT_FALSE(job.finished("ab"));
}

}  // namespace
}  // namespace moe
