#include "data/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "testing/message_of.h"
#include "testing/paths.h"
#include "testing/read_documents.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Ids = std::vector<int32_t>;
const std::string kRoot = testing::source_dir();

class DocumentsTest : public ::testing::Test {
 protected:
  std::vector<Document> read(const std::string& lines, DocumentOptions options = {}) {
    write_file_atomically(folder_ / "d.jsonl", lines);
    if (options.vocab_size == 0) options.vocab_size = 4096;
    return testing::read_documents(folder_ / "d.jsonl", tokenizer_.get(), options);
  }
  std::string error_of(const std::string& lines, const DocumentOptions& options = {}) {
    return testing::message_of([&] { read(lines, options); });
  }
  testing::TempDir folder_;
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::from_directory(kRoot + "/examples/base-7m");
};

TEST_F(DocumentsTest, TextIsBosTextEosAllSupervised) {
  const std::string line = "{\"text\": \"The old man\", \"domain\": \"sea\"}\n";
  const std::vector<Document> documents = read(line);
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].ids.front(), 1);
  EXPECT_EQ(documents[0].ids.back(), 2);
  EXPECT_EQ(documents[0].domain, "sea");
  EXPECT_FALSE(documents[0].is_chat);
  EXPECT_EQ(Ids(documents[0].ids.begin() + 1, documents[0].ids.end() - 1), tokenizer_->encode("The old man").ids);
  EXPECT_THAT(documents[0].supervised, ::testing::Each(1));
  EXPECT_EQ(read(line, {.append_eos = false})[0].ids.size(), documents[0].ids.size() - 1);
  const std::vector<IdLine> scored = read_text_documents(folder_ / "d.jsonl", *tokenizer_);
  ASSERT_EQ(scored.size(), 1U);
  EXPECT_EQ(scored[0].ids, read(line, {.append_eos = false})[0].ids);
}

// stories260k knows the letters and bytes of "hi" and "ok" and no piece across a line break: ids read off its piece
// list.
TEST_F(DocumentsTest, ChatIdsAndMaskExactly) {
  tokenizer_ = Tokenizer::from_directory(kRoot + "/tests/testing/fixtures/stories260k");
  const std::vector<Document> documents = read(
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "hi"},)"
      R"( {"role": "assistant", "content": ""}]})",
      {.vocab_size = 512});
  // The pieces of the rendered text come from the recorded oracle's rule; the special ids stand where the turns say.
  const Ids first = tokenizer_->encode("### User:\nhi\n\n### Assistant:\nok").ids;
  const Ids whole = tokenizer_->encode("### User:\nhi\n\n### Assistant:\nok\n\n### User:\nhi\n\n### Assistant:\n").ids;
  ASSERT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
  Ids expected{1};
  expected.insert(expected.end(), first.begin(), first.end());
  expected.push_back(2);
  expected.insert(expected.end(), whole.begin() + static_cast<std::ptrdiff_t>(first.size()), whole.end());
  expected.push_back(2);
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].ids, expected);
  const size_t answer = tokenizer_->encode("### User:\nhi\n\n### Assistant:\n").ids.size();
  std::vector<uint8_t> supervised(expected.size(), 0);
  for (size_t i = 1 + answer; i <= 1 + first.size(); ++i) supervised[i] = 1;  // "ok" and its EOS
  supervised.back() = 1;                                                      // EOS of the empty answer
  EXPECT_EQ(documents[0].supervised, supervised);
}

/// What is supervised, decoded: one string per EOS.
std::vector<std::string> supervised_turns(const Document& chat, const Tokenizer& tokenizer) {
  std::vector<std::string> turns;
  Ids run;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    if (chat.supervised[i] == 0) continue;
    if (chat.ids[i] != *tokenizer.eos_id()) {
      run.push_back(chat.ids[i]);
      continue;
    }
    turns.push_back(tokenizer.decode(run));
    run.clear();
  }
  EXPECT_TRUE(run.empty()) << "a turn without its EOS";
  return turns;
}

TEST_F(DocumentsTest, OnlyTheAssistantAndTheEosAfterItAreSupervised) {
  const std::vector<Document> documents = read(
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two and two?"},)"
      R"( {"role": "assistant", "content": "Four."}, {"role": "user", "content": [{"type": "text", "text": "Su"}, {"type": "text", "text": "re?"}]},)"
      R"( {"role": "assistant", "content": "Yes, sure."}]})");
  ASSERT_EQ(documents.size(), 1U);
  const Document& chat = documents[0];
  EXPECT_TRUE(chat.is_chat);
  EXPECT_THAT(supervised_turns(chat, *tokenizer_), ::testing::ElementsAre("Four.", "Yes, sure."));
  Ids without_special;
  std::copy_if(chat.ids.begin(), chat.ids.end(), std::back_inserter(without_special),
               [](int32_t id) { return id > 2; });
  EXPECT_EQ(tokenizer_->decode(without_special),
            "### System:\nBe brief.\n\n### User:\nTwo and two?\n\n### Assistant:\nFour.\n\n### User:\nSure?\n\n### "
            "Assistant:\nYes, sure.");
}

TEST_F(DocumentsTest, RealChatsSuperviseExactlyTheAnswers) {
  const std::string path = kRoot + "/examples/data/maths.valid.jsonl";
  const std::vector<Document> documents = testing::read_documents(path, tokenizer_.get(), {.vocab_size = 4096});
  std::ifstream file(path);
  std::string line;
  size_t index = 0, turns = 0;
  for (; std::getline(file, line); ++index) {
    std::vector<std::string> answers;
    const nlohmann::json chat = nlohmann::json::parse(line);
    for (const nlohmann::json& message : chat["messages"]) {
      if (message["role"] == "assistant") answers.push_back(message["content"]);
    }
    turns += answers.size();
    ASSERT_LT(index, documents.size());
    EXPECT_EQ(supervised_turns(documents[index], *tokenizer_), answers) << path << ":" << index + 1;
  }
  EXPECT_EQ(index, documents.size());
  std::cout << index << " chats, " << turns << " answers\n";
}

/// {"instruction", "output"} is a chat of one question; alpaca alone has a place for the input.
TEST_F(DocumentsTest, InstructionsAreChatsOfOneQuestion) {
  const std::string line = R"({"instruction": "Add.", "input": "1, 2", "output": "3"})";
  const std::string chat =
      R"({"messages": [{"role": "user", "content": "Add.\n1, 2"}, {"role": "assistant", "content": "3"}]})";
  EXPECT_EQ(read(line)[0].ids, read(chat)[0].ids);
  EXPECT_EQ(read(line)[0].supervised, read(chat)[0].supervised);
  EXPECT_TRUE(read(line)[0].is_chat);
  const Document alpaca = read(line, {.chat_template = {"alpaca"}})[0];
  EXPECT_THAT(tokenizer_->decode(alpaca.ids),
              ::testing::EndsWith("\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:3"));
  EXPECT_THAT(supervised_turns(alpaca, *tokenizer_), ::testing::ElementsAre("3"));
  EXPECT_THAT(error_of(R"({"instruction": "Add."})"), HasSubstr("d.jsonl:1: has `instruction` and no `output`"));
  EXPECT_THAT(error_of(R"({"instruction": 4, "output": ""})"),
              HasSubstr("d.jsonl:1: `instruction` is number; expected a string"));
}

/// Special tokens of a template are control pieces, each once, and the masks end at them.
TEST_F(DocumentsTest, TemplatesPrintControlPieces) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"},)"
                           R"( {"role": "user", "content": "so"}, {"role": "assistant", "content": "yes"}]})";
  const Document document = read(chat, {.chat_template = {"llama2"}})[0];
  EXPECT_EQ(std::count(document.ids.begin(), document.ids.end(), 1), 2);
  EXPECT_EQ(std::count(document.ids.begin(), document.ids.end(), 2), 2);
  EXPECT_EQ(document.ids.front(), 1);
  EXPECT_EQ(document.ids.back(), 2);
  EXPECT_EQ(document.supervised.back(), 1);
  EXPECT_THAT(supervised_turns(document, *tokenizer_), ::testing::ElementsAre("ok ", "yes "));
  EXPECT_THAT(
      supervised_turns(read(chat, {.chat_template = {"llama2"}, .chat = {.supervise = "last"}})[0], *tokenizer_),
      ::testing::ElementsAre("yes "));
}

TEST_F(DocumentsTest, WithoutATemplateOnlyChatsFail) {
  const DocumentOptions none{.chat_template = {"", "its template is unknown"}};
  EXPECT_EQ(read(R"({"text": "a"})", none).size(), 1U);
  const std::string chat =
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]})";
  const std::string message = error_of(chat + "\n" + chat + "\n", none);
  EXPECT_THAT(message, HasSubstr("d.jsonl has chats, and its template is unknown"));
  EXPECT_THAT(message, Not(HasSubstr("d.jsonl:2"))) << "once, not for every line";
}

TEST_F(DocumentsTest, IdsAreTakenAsTheyAre) {
  const std::vector<Document> documents = read("{\"ids\": [1, 7, 4095]}\n{\"ids\": []}");
  ASSERT_EQ(documents.size(), 2U);
  EXPECT_EQ(documents[0].ids, (Ids{1, 7, 4095}));
  const std::vector<IdLine> lines = read_id_documents(folder_ / "d.jsonl", 4096);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].ids, (Ids{1, 7, 4095}));
  EXPECT_TRUE(lines[1].ids.empty());
  EXPECT_EQ(testing::read_documents(folder_ / "d.jsonl", nullptr, {.vocab_size = 4096})[0].ids, (Ids{1, 7, 4095}))
      << "needs no tokenizer";
}

TEST_F(DocumentsTest, ReadsAtMostTheGivenNumberOfDocuments) {
  EXPECT_EQ(read("{\"ids\": [1, 2]}\n\n{\"ids\": [1, 3]}\nbroken\n", {.max_documents = 2}).size(), 2U);
}

/// As jq, pandas and datasets read such files; the numbers of the lines stay those of an editor.
TEST_F(DocumentsTest, BlankLinesAreSkippedAndCounted) {
  const std::string blank = "\n{\"ids\": [1, 2]}\n  \t\n\r\n{\"ids\": [1, 3]}\n\n";
  EXPECT_EQ(read(blank).size(), 2U);
  const std::vector<IdLine> lines = read_id_documents(folder_ / "d.jsonl", 4096);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].number, 2);
  EXPECT_EQ(lines[1].number, 5);
  EXPECT_THAT(error_of("{\"ids\": [1]}\n\n \n{\"ids\": [x]}\n"), HasSubstr("d.jsonl:4: not valid JSON"));
  EXPECT_THAT(error_of(" \n\n"), HasSubstr("d.jsonl: the file has blank lines only"));
}

/// Python's json.loads refuses both: "Extra data" and "Invalid control character".
TEST_F(DocumentsTest, ANulIsNoEndOfLine) {
  const std::string nul(1, '\0');
  EXPECT_THAT(error_of("{\"text\": \"a\"}\n{\"text\": \"b\"}" + nul + nul + "{\"text\": \"lost\"}\n"),
              HasSubstr("d.jsonl:2: not valid JSON: a NUL at byte 13"));
  EXPECT_THAT(error_of("{\"text\": \"a" + nul + "\"}\n"), HasSubstr("d.jsonl:1: not valid JSON: a NUL at byte 11"));
  EXPECT_THAT(error_of(nul + nul + "\n"), HasSubstr("d.jsonl:1: not valid JSON: a NUL at byte 0"));
  EXPECT_EQ(read("{\"text\": \"\\u0000\"}\n").size(), 1U) << "escaped it is a character like others";
}

/// One bad line is told in one short line of UTF-8, whatever it holds.
TEST_F(DocumentsTest, WhatIsQuotedIsCutAndEscaped) {
  const auto short_error = [this](const std::string& line) {
    const std::string message = error_of("{\"text\": \"fine\"}\n" + line + "\n");
    EXPECT_LT(message.size(), 600U);
    EXPECT_EQ(printable(message), message) << "not UTF-8, or too long";
    EXPECT_THAT(message, HasSubstr("d.jsonl:2: "));
    return message;
  };
  EXPECT_THAT(short_error("{\"text\": \"caf\xE9 and"), HasSubstr("ill-formed UTF-8 byte; last read: '\"caf\\xE9"));
  short_error("{\"text\": \"" + std::string(3'000'000, 'x'));
  short_error(std::string(3'000'000, '['));
  short_error("{\"ids\": [" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "]}");
  short_error("{\"ids\": [\"" + std::string(3'000'000, 'x') + "\"]}");
  short_error(R"({"messages": [{"role": ")" + std::string(3'000'000, 'r') + R"(", "content": "x"}]})");
  const std::string nested = "{\"text\": \"a\", \"extra\": " + std::string(70, '[') + std::string(70, ']') + "}";
  EXPECT_THAT(short_error(nested), HasSubstr("nested deeper than 64 levels"));
  EXPECT_EQ(
      read(R"({"text": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"["})").size(), 1U)
      << "text, not lists";
}

/// What pandas and datasets write for a column that a row does not have.
TEST_F(DocumentsTest, NullIsAbsent) {
  EXPECT_EQ(read(R"({"text": "a", "messages": null, "ids": null, "instruction": null, "domain": null})")[0].ids,
            read(R"({"text": "a"})")[0].ids);
  EXPECT_EQ(read(R"({"instruction": "Add.", "input": null, "output": "3"})")[0].ids,
            read(R"({"instruction": "Add.", "output": "3"})")[0].ids);
  EXPECT_EQ(
      read(
          R"({"messages": [{"role": "user", "content": "a", "weight": null}, {"role": "assistant", "content": "b", "tool_calls": null, "weight": null}]})")
          [0]
              .ids,
      read(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})")[0].ids);
  EXPECT_THAT(error_of(R"({"instruction": "Add.", "output": null})"),
              HasSubstr("d.jsonl:1: has `instruction` and no `output`"));
  EXPECT_THAT(error_of(R"({"text": null})"), HasSubstr("d.jsonl:1: has none of"));
}

/// tatsu-lab/alpaca has the same rendered by Alpaca's template in `text`.
TEST_F(DocumentsTest, AnInstructionWinsOverItsRenderedText) {
  const std::string line =
      R"({"instruction": "Add.", "input": "", "output": "3", "text": "Below is an instruction. ### Response:\n3"})";
  const Document document = read(line)[0];
  EXPECT_TRUE(document.is_chat);
  EXPECT_EQ(document.ids, read(R"({"instruction": "Add.", "output": "3"})")[0].ids);
  EXPECT_THAT(supervised_turns(document, *tokenizer_), ::testing::ElementsAre("3"));
  read(line);
  EXPECT_EQ(read_text_documents(folder_ / "d.jsonl", *tokenizer_).size(), 1U) << "asked for text, there is text";
  EXPECT_THAT(error_of(R"({"instruction": "Add.", "text": "a"})"),
              HasSubstr("d.jsonl:1: has `text` and `instruction`"));
}

/// As OpenAI's fine-tuning and axolotl have it: context, not learned.
TEST_F(DocumentsTest, MessagesOfWeightZeroAreNotLearned) {
  const auto chat = [](const std::string& first, const std::string& second) {
    return R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad")" + first +
           R"(}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "good")" + second + "}]}";
  };
  for (const char* name : {"plain_markers", "llama2", "vicuna"}) {
    const DocumentOptions options{.chat_template = {name}};
    const Document all = read(chat("", ""), options)[0],
                   weighted = read(chat(", \"weight\": 0", ", \"weight\": 1"), options)[0];
    EXPECT_EQ(weighted.ids, all.ids) << name;
    ASSERT_EQ(supervised_turns(all, *tokenizer_).size(), 2U);
    EXPECT_THAT(supervised_turns(weighted, *tokenizer_), ::testing::ElementsAre(supervised_turns(all, *tokenizer_)[1]))
        << name;
  }
  EXPECT_THAT(error_of(chat(", \"weight\": 0.5", "")),
              HasSubstr("d.jsonl:1: messages[1].weight is 0.5; expected 0 (context only) or 1"));
  EXPECT_THAT(error_of(chat(", \"weight\": \"0\"", "")), HasSubstr("messages[1].weight is \"0\"; expected"));
  EXPECT_THAT(error_of(chat(", \"weight\": false", "")), HasSubstr("messages[1].weight is false; expected"));
  EXPECT_THAT(error_of(chat(", \"weight\": 0", ", \"weight\": 0")),
              HasSubstr("no assistant turn but those of `weight` 0"));
}

TEST_F(DocumentsTest, ToolCallsTeachNoEmptyAnswer) {
  const auto chat = [](const std::string& more) {
    return R"({"messages": [{"role": "user", "content": "the time?"}, {"role": "assistant", "content": "")" + more +
           "}]}";
  };
  const std::string call = R"({"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}})";
  EXPECT_THAT(error_of(chat(", \"tool_calls\": [" + call + "]")),
              HasSubstr("d.jsonl:1: messages[1] has `tool_calls`, which cannot be learned"));
  EXPECT_THAT(error_of(chat(R"(, "function_call": {"name": "clock"})")), HasSubstr("messages[1] has `function_call`"));
  EXPECT_EQ(read(chat(", \"tool_calls\": []"))[0].ids, read(chat(""))[0].ids);
}

TEST_F(DocumentsTest, BadLinesAreNamed) {
  const std::string several =
      error_of("{\"text\": \"a\"}\n{}\n{\"text\": 3}\n[1]\n{\"text\": \"x\"\n{\"text\": \"fine\"}\n{\"other\": 1}\n");
  for (const char* part :
       {"d.jsonl:2: has none of", "d.jsonl:3: `text` is number; expected a string", "d.jsonl:4: expected a JSON object",
        "d.jsonl:5: not valid JSON", "d.jsonl:7: has none of `text`, `messages`, `instruction` and `ids`"}) {
    EXPECT_THAT(several, HasSubstr(part));
  }
  EXPECT_THAT(several, Not(HasSubstr("d.jsonl:6")));
  EXPECT_THAT(error_of("{\"text\": \"a\"}\n{\"ids\": [1]}\n"),
              HasSubstr("d.jsonl:2: has `ids` where the lines before have `text`; one kind per file"));
  EXPECT_THAT(error_of("{\"text\": \"a\", \"ids\": [1]}\n"), HasSubstr("d.jsonl:1: has `text` and `ids`"));
  EXPECT_THAT(error_of("{\"text\": \"a\xFF\"}\n"), HasSubstr("d.jsonl:1: not valid JSON"));
  EXPECT_THAT(error_of("{\"text\": \"\\ud800\"}\n"), HasSubstr("d.jsonl:1: not valid JSON"));
  EXPECT_THAT(error_of("{\"text\": \"a\", \"domain\": 4}\n"), HasSubstr("d.jsonl:1: `domain` is not a string"));
  EXPECT_THAT(error_of("{\"text\": \"a\", \"domain\": \"" + std::string(201, 'd') + "\"}\n"),
              HasSubstr("`domain` is 201 bytes long; at most 200"));
}

TEST_F(DocumentsTest, BadIdsAreNamedWithTheRange) {
  for (const char* id : {"4096", "-1", "1.0", "\"3\"", "18446744073709551615"}) {
    const std::string message = error_of(std::string("{\"ids\": [1, ") + id + "]}\n");
    EXPECT_THAT(message, HasSubstr(id));
    EXPECT_THAT(message, HasSubstr("d.jsonl:1: `ids` holds"));
    EXPECT_THAT(message, HasSubstr("integers from 0 to 4095"));
  }
  EXPECT_THAT(error_of("{\"ids\": 3}\n"), HasSubstr("`ids` is number; expected a list of integers"));
}

TEST_F(DocumentsTest, BadChatsAreNamed) {
  const auto chat_error = [this](const std::string& messages) {
    return error_of("{\"messages\": " + messages + "}\n");
  };
  EXPECT_THAT(chat_error("[]"), HasSubstr("d.jsonl:1: `messages` is not a list with at least one message"));
  EXPECT_THAT(chat_error(R"([{"role": "robot", "content": "x"}])"),
              HasSubstr("messages[0] has the role 'robot'; expected system, user or assistant"));
  EXPECT_THAT(chat_error(R"([{"role": "user", "content": "x"}])"), HasSubstr("no assistant turn"));
  EXPECT_THAT(chat_error(R"([{"content": "x"}])"), HasSubstr("messages[0] has no string `role`"));
  EXPECT_THAT(chat_error(R"([{"role": "user"}])"), HasSubstr("messages[0] has no `content`"));
  EXPECT_THAT(chat_error(R"([{"role": "user", "content": null}])"), HasSubstr("messages[0].content is null"));
  EXPECT_THAT(chat_error(R"([{"role": "user", "content": [{"type": "image"}]}])"),
              HasSubstr("messages[0].content has a part"));
}

TEST_F(DocumentsTest, NamesWhatIsWrongWithTheFile) {
  EXPECT_THAT(error_of(""), HasSubstr("d.jsonl: the file is empty"));
  EXPECT_THAT(error_of("1\n2\n3\n4\n5\n6\n7\n"),
              ::testing::AllOf(HasSubstr("d.jsonl:5"), Not(HasSubstr("d.jsonl:6")), HasSubstr("and 2 more bad lines")));
  EXPECT_THAT(error_of("{\"ids\": [1]}", {.chat_template = {"nope"}}),
              HasSubstr("unknown chat template 'nope'; known: plain_markers"));
  const auto message = [](const std::string& path, const Tokenizer* tokenizer) {
    return testing::message_of([&] { testing::read_documents(path, tokenizer, {.vocab_size = 9}); });
  };
  EXPECT_THAT(message(folder_ / "absent.jsonl", nullptr), HasSubstr("absent.jsonl: No such file"));
  EXPECT_THAT(message(folder_.path(), nullptr), HasSubstr("a folder; expected a JSONL file"));
  write_file_atomically(folder_ / "t.jsonl", "{\"text\": \"a\"}\n");
  EXPECT_THAT(message(folder_ / "t.jsonl", nullptr), HasSubstr("t.jsonl:1: `text` needs a tokenizer"));
}

}  // namespace
}  // namespace moe
