// Every file of the corpus, opened as a program opens it: refused by the error for wrong input, with one message on one
// screen that names the file, the field and the value; and the directory reads again as soon as the file is right. The
// sanitizer build runs it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>
#include <set>

#include "bad_input/bad_files.h"
#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "data/tokenizer/tokenizer.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CorpusTest : public ::testing::Test {
 protected:
  CorpusTest() : good_(testing::write_good_directories(folder_.path())) {}

  static void load_model(const fs::path& directory) { load_decoder(ModelDirectory(directory), at::kFloat, {0, 0}); }
  static void load_tokenizer(const fs::path& directory) { Tokenizer::from_directory(directory)->encode("ab a"); }

  /// Puts each file in its place, and the good one back.
  void expect_refused(const fs::path& directory, const std::vector<testing::BadFile>& files,
                      void (*load)(const fs::path&)) {
    ASSERT_NO_THROW(load(directory));
    std::set<std::string> names, messages;
    for (const testing::BadFile& bad : files) {
      SCOPED_TRACE(bad.name);
      EXPECT_TRUE(names.insert(bad.name).second) << "two cases of this name";
      const fs::path path = directory / bad.file;
      const std::string good = read_file(path);
      write_file_atomically(path, bad.bytes);
      try {
        load(directory);
        ADD_FAILURE() << "accepted";
      } catch (const InvalidArgument& error) {
        EXPECT_EQ(exit_code_for(error), ExitCode::kBadInput);
        EXPECT_THAT(error.what(), HasSubstr(path.string()));
        for (const std::string& words : bad.says) EXPECT_THAT(error.what(), HasSubstr(words));
        EXPECT_LE(std::strlen(error.what()), 2000U);
        messages.insert(error.what());
      } catch (const std::exception& error) {
        ADD_FAILURE() << "an error of another kind: " << error.what();
      }
      write_file_atomically(path, good);
    }
    EXPECT_NO_THROW(load(directory)) << "the good file is not read any more";
    std::cout << files.size() << " files refused with " << messages.size() << " different messages\n";
  }

  testing::TempDir folder_;
  testing::GoodDirectories good_;
};

TEST_F(CorpusTest, SafetensorsHeaders) {
  expect_refused(good_.single, testing::bad_safetensors_headers(), load_model);
}
TEST_F(CorpusTest, SafetensorsTensors) {
  expect_refused(good_.single, testing::bad_safetensors_tensors(good_.single), load_model);
}
TEST_F(CorpusTest, Index) {
  expect_refused(good_.sharded, testing::bad_indexes(good_.sharded), load_model);
}
TEST_F(CorpusTest, Config) {
  expect_refused(good_.single, testing::bad_configs(), load_model);
}
TEST_F(CorpusTest, TokenizerModel) {
  expect_refused(good_.single, testing::bad_tokenizer_models(), load_tokenizer);
}
TEST_F(CorpusTest, TokenizerJson) {
  expect_refused(good_.json, testing::bad_tokenizer_jsons(), load_tokenizer);
}
TEST_F(CorpusTest, TokenizerConfig) {
  expect_refused(good_.json, testing::bad_tokenizer_configs(), load_tokenizer);
}

}  // namespace
}  // namespace moe
