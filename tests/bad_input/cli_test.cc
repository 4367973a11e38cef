// A sample of the corpus as a user meets it: the program ends with 65 and one line on standard error that names the
// file and what is wrong in it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "bad_input/bad_files.h"
#include "common/file_io.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class BadFilesOfCommandsTest : public ::testing::Test {
 protected:
  BadFilesOfCommandsTest() : good_(testing::write_good_directories(folder_.path())) {
    write_file_atomically(folder_ / "text.jsonl", "{\"text\": \"ab a\"}\n");
  }

  std::vector<std::string> inspect(const fs::path& model) const { return {"inspect", model.string()}; }
  std::vector<std::string> score(const fs::path& model) const {
    return {"score", model.string(), "--text", (folder_ / "text.jsonl").string()};
  }

  /// Every `step`th file.
  void expect_refused(const fs::path& directory, const std::vector<testing::BadFile>& files, size_t step,
                      const std::vector<std::string>& words) {
    int count = 0;
    for (size_t i = 0; i < files.size(); i += step, ++count) {
      const testing::BadFile& bad = files[i];
      SCOPED_TRACE(bad.name);
      const std::string good = read_file(directory / bad.file);
      write_file_atomically(directory / bad.file, bad.bytes);
      const testing::ProcessResult result = testing::run_process(testing::worker_command(1, words));
      write_file_atomically(directory / bad.file, good);
      EXPECT_EQ(result.exit_code, 65);
      EXPECT_THAT(result.err, StartsWith("moe-worker: "));
      EXPECT_THAT(result.err, HasSubstr((directory / bad.file).string()));
      for (const std::string& says : bad.says) EXPECT_THAT(result.err, HasSubstr(says));
      // Tensors that are missing, unexpected and mismatched are a line each.
      EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 4) << result.err;
      EXPECT_EQ(result.out, "");
    }
    std::cout << count << " of " << files.size() << " files refused by " << words.front() << "\n";
  }

  testing::TempDir folder_;
  testing::GoodDirectories good_;
};

TEST_F(BadFilesOfCommandsTest, InspectOfSafetensors) {
  expect_refused(good_.single, testing::bad_safetensors_headers(), 17, inspect(good_.single));
}
TEST_F(BadFilesOfCommandsTest, InspectOfAnIndex) {
  expect_refused(good_.sharded, testing::bad_indexes(good_.sharded), 11, inspect(good_.sharded));
}
TEST_F(BadFilesOfCommandsTest, InspectOfAConfig) {
  expect_refused(good_.single, testing::bad_configs(), 29, inspect(good_.single));
}
TEST_F(BadFilesOfCommandsTest, ScoreWithATokenizerModel) {
  expect_refused(good_.single, testing::bad_tokenizer_models(), 9, score(good_.single));
}
TEST_F(BadFilesOfCommandsTest, ScoreWithATokenizerJson) {
  expect_refused(good_.json, testing::bad_tokenizer_jsons(), 23, score(good_.json));
}

TEST_F(BadFilesOfCommandsTest, ScoreWithTheTokenizerOfAnotherModel) {
  write_file_atomically(good_.single / "tokenizer.model", testing::tokenizer_model_of_a_larger_model());
  const testing::ProcessResult result = testing::run_process(testing::worker_command(1, score(good_.single)));
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_THAT(result.err, HasSubstr("text.jsonl:1: the token "));
  EXPECT_THAT(result.err, HasSubstr("and the model has 300 (`vocab_size` of config.json)"));
}

TEST_F(BadFilesOfCommandsTest, TheGoodOnesAreRead) {
  for (const auto& words : {inspect(good_.single), inspect(good_.sharded), score(good_.single), score(good_.json)}) {
    const testing::ProcessResult result = testing::run_process(testing::worker_command(1, words));
    EXPECT_EQ(result.exit_code, 0) << words.front() << " " << words[1] << ": " << result.err;
  }
}

}  // namespace
}  // namespace moe
