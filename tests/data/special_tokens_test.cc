// Special tokens that plain texts spell, and tokens that the model has no row for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "data/data_loader.h"
#include "data/documents.h"
#include "testing/message_of.h"
#include "testing/paths.h"
#include "testing/read_documents.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kRendered[] = R"({"text": "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>\n"})"
                             "\n"
                             R"({"text": "plain"})"
                             "\n"
                             R"({"text": "</s><|im_end|>"})"
                             "\n";
constexpr int32_t kStart = 512, kEnd = 513, kPad = 514;

class SpecialTokensTest : public ::testing::Test {
 protected:
  SpecialTokensTest() {
    fs::copy_file(fs::path(testing::source_dir()) / "tests/testing/fixtures/stories260k/tokenizer.model",
                  folder_ / "tokenizer.model");
    write_file_atomically(
        folder_ / "tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": false, "pad_token": "<pad>",
                              "additional_special_tokens": ["<|im_start|>"],
                              "added_tokens_decoder": {"512": {"content": "<|im_start|>", "special": true},
                                                       "513": {"content": "<|im_end|>", "special": true},
                                                       "514": {"content": "<pad>", "special": true}}})");
    tokenizer_ = Tokenizer::from_directory(folder_.path());
  }

  std::string write(const std::string& lines) {
    write_file_atomically(folder_ / "d.jsonl", lines);
    return (folder_ / "d.jsonl").string();
  }
  /// What is logged from warnings on.
  template <typename Work>
  std::string warnings_of(const Work& work) {
    fs::remove(folder_ / "log");
    {
      const LogFile file(folder_ / "log", LogLevel::kWarning);
      work();
    }
    return read_file(folder_ / "log");
  }

  testing::TempDir folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

int64_t occurrences(const std::vector<Document>& documents, int32_t id) {
  int64_t count = 0;
  for (const Document& document : documents) count += std::count(document.ids.begin(), document.ids.end(), id);
  return count;
}

TEST_F(SpecialTokensTest, StayTextWithOneWarningForTheFile) {
  const std::string path = write(kRendered);
  std::vector<Document> documents;
  const std::string log =
      warnings_of([&] { documents = testing::read_documents(path, tokenizer_.get(), {.vocab_size = 515}); });
  EXPECT_EQ(occurrences(documents, kStart) + occurrences(documents, kEnd), 0);
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  EXPECT_THAT(
      log, AllOf(HasSubstr("event=special_tokens_stay_text file=" + path + " lines=2 count=6"),
                 HasSubstr(R"(tokens="<|im_end|>":3,"<|im_start|>":2,"</s>":1)"), HasSubstr("special_tokens: parse")));
  EXPECT_EQ(warnings_of([&] { testing::read_documents(write("{\"text\": \"plain\"}\n"), tokenizer_.get(), {}); }), "");
  EXPECT_THAT(warnings_of([&] { read_text_documents(write(kRendered), *tokenizer_); }), HasSubstr("lines=2 count=6"));
}

TEST_F(SpecialTokensTest, AreTokensWhereTheDataSourceSaysSo) {
  const std::string path = write(kRendered);
  const DocumentOptions options{.special_tokens = SpecialTokens::kParse, .vocab_size = 515};
  std::vector<Document> documents;
  EXPECT_EQ(warnings_of([&] { documents = testing::read_documents(path, tokenizer_.get(), options); }), "");
  EXPECT_EQ(occurrences(documents, kStart), 2);
  EXPECT_EQ(occurrences(documents, kEnd), 3);
  // transformers 4.57 for the first text: BOS, then no prefix before the mark; here EOS behind it.
  EXPECT_EQ(Ids(documents[0].ids.begin(), documents[0].ids.begin() + 6), (Ids{1, 512, 425, 419, 285, 13}));
  EXPECT_EQ(documents[0].ids.back(), 2);
  EXPECT_THAT(documents[0].supervised, ::testing::Each(1));
  const std::vector<IdLine> scored = read_text_documents(path, *tokenizer_, options);
  EXPECT_EQ(scored[0].ids, Ids(documents[0].ids.begin(), documents[0].ids.end() - 1));
  EXPECT_THAT([&] { testing::read_documents(write(R"({"ids": [1, 2]})"), tokenizer_.get(), options); },
              ::testing::ThrowsMessage<InvalidArgument>(
                  HasSubstr("has `ids`, and special_tokens: parse is for files of {\"text\"}")));
}

TEST_F(SpecialTokensTest, TheFingerprintOfTheDataKnows) {
  const std::string path = write(kRendered);
  const auto fingerprint = [&](SpecialTokens specials) {
    return DataLoader({{.path = path, .domain = "text", .special_tokens = specials}}, tokenizer_,
                      {.sequence_length = 64, .vocab_size = 515})
        .fingerprint();
  };
  EXPECT_NE(fingerprint(SpecialTokens::kAsText), fingerprint(SpecialTokens::kParse));
}

// A pad token that was added to the tokenizer, and not to the embedding, is never met.
TEST_F(SpecialTokensTest, ATokenWithoutARowIsRefusedWhereItOccurs) {
  const auto message = [&](const std::string& lines, int64_t rows) {
    return testing::message_of([&] {
      const DocumentOptions options{.special_tokens = SpecialTokens::kParse, .vocab_size = rows};
      testing::read_documents(write(lines), tokenizer_.get(), options);
      read_text_documents(write(lines), *tokenizer_, options);
    });
  };
  EXPECT_EQ(message("{\"text\": \"a b <|im_end|>\"}\n", kPad), "nothing was thrown");
  EXPECT_THAT(message("{\"text\": \"a\"}\n{\"text\": \"a <pad>\"}\n", kPad),
              AllOf(HasSubstr("d.jsonl:2: the token \"<pad>\" has the id 514, and the model has 514"),
                    HasSubstr("`vocab_size` of config.json")));
  EXPECT_THAT(message("{\"text\": \"a\"}\n", 100), HasSubstr("and the model has 100"));
}

TEST_F(SpecialTokensTest, DataThatIsNotThereIsCalledThat) {
  const auto message = [&](const std::string& path) {
    return testing::message_of([&] { testing::read_documents(path, tokenizer_.get(), {}); });
  };
  EXPECT_THAT(message(write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13644312\n")),
              AllOf(HasSubstr("d.jsonl: it is a Git LFS pointer"), HasSubstr("git lfs pull")));
  fs::create_symlink("blob", folder_ / "link.jsonl");
  EXPECT_THAT(message(folder_ / "link.jsonl"), HasSubstr("link.jsonl: it is a link to blob, which is not there"));
}

}  // namespace
}  // namespace moe
