#include "data/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file_io.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class DocumentsTest : public ::testing::Test {
 protected:
  std::vector<Document> read(const std::string& lines) {
    write_file_atomically(folder_ / "d.jsonl", lines);
    return read_documents(folder_ / "d.jsonl", tokenizer_.get(), {.vocab_size = 4096});
  }
  void expect_error(const std::string& lines, const std::vector<std::string>& words) {
    try {
      read(lines);
      ADD_FAILURE() << "accepted: " << lines;
    } catch (const InvalidArgument& error) {
      for (const std::string& word : words) EXPECT_THAT(error.what(), HasSubstr(word));
    }
  }
  testing::TempDir folder_;
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::from_directory(std::string(MOE_SOURCE_DIR) + "/examples/base-7m");
};

TEST_F(DocumentsTest, TextIsBosTextEosAllSupervised) {
  const std::vector<Document> documents = read("{\"text\": \"The old man\", \"domain\": \"sea\"}\n");
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].ids.front(), 1);
  EXPECT_EQ(documents[0].ids.back(), 2);
  EXPECT_EQ(documents[0].domain, "sea");
  EXPECT_EQ(std::vector<int32_t>(documents[0].ids.begin() + 1, documents[0].ids.end() - 1), tokenizer_->encode("The old man").ids);
}

TEST_F(DocumentsTest, OnlyTheAssistantAndTheEosAfterItAreSupervised) {
  const std::vector<Document> documents = read(
      "{\"messages\": [{\"role\": \"user\", \"content\": \"Two and two?\"}, {\"role\": \"assistant\", \"content\": \"Four.\"},"
      " {\"role\": \"user\", \"content\": \"Sure?\"}, {\"role\": \"assistant\", \"content\": \"Yes, sure.\"}]}\n");
  ASSERT_EQ(documents.size(), 1U);
  const Document& chat = documents[0];
  std::vector<int32_t> run;
  std::vector<std::string> supervised;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    if (chat.supervised[i] == 0) continue;
    if (chat.ids[i] == *tokenizer_->eos_id()) {
      supervised.push_back(tokenizer_->decode(run));
      run.clear();
    } else {
      run.push_back(chat.ids[i]);
    }
  }
  EXPECT_TRUE(run.empty()) << "a turn without its EOS";
  EXPECT_THAT(supervised, ::testing::ElementsAre("Four.", "Yes, sure."));
  std::vector<int32_t> without_eos;
  for (const int32_t id : chat.ids) {
    if (id > 2) without_eos.push_back(id);
  }
  EXPECT_EQ(tokenizer_->decode(without_eos), "### User:\nTwo and two?\n\n### Assistant:\nFour.\n\n### User:\nSure?\n\n### Assistant:\nYes, sure.");
}

TEST_F(DocumentsTest, BadLinesAreNamedUpToFiveAtOnce) {
  expect_error("", {"d.jsonl", "empty"});
  expect_error("{\"text\": \"a\"}\n\n{\"text\": 3}\n[1]\n{\"text\": \"x\"\n", {"d.jsonl:2: the line is empty", "d.jsonl:3: `text`", "d.jsonl:4: expected", "d.jsonl:5: not valid JSON"});
  expect_error("{\"text\": \"a\"}\n{\"ids\": [1]}\n", {"d.jsonl:2", "one kind per file"});
  expect_error("{\"ids\": [1, 4096]}\n", {"d.jsonl:1", "4096", "4095"});
  expect_error("{\"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}\n", {"d.jsonl:1", "robot"});
  expect_error("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n", {"d.jsonl:1", "assistant"});
  expect_error("1\n2\n3\n4\n5\n6\n7\n", {"d.jsonl:5", "and 2 more"});
}

}  // namespace
}  // namespace moe
