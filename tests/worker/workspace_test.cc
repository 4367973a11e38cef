#include "worker/workspace.h"

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
