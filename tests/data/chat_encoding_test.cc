// Label masks on a tokenizer whose tokens are known by heart.
#include "data/chat/chat_encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Parsed, "<|im_start|>", "<|im_end|>", "<s>" and "</s>" are tokens; all other text is cut into pieces of `width`
/// bytes, from left to right between specials. The id of a piece is its first byte.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(size_t width, bool adds_bos) : width_(width), adds_bos_(adds_bos) {}

  Encoding encode(std::string_view text, SpecialTokens specials) const override {
    Encoding encoding;
    size_t since_special = 0;
    for (size_t at = 0; at < text.size();) {
      size_t length = std::min(width_ - since_special % width_, text.size() - at);
      int32_t id = static_cast<unsigned char>(text[at]);
      for (size_t i = 0; specials == SpecialTokens::kParse && i < kSpecials.size(); ++i) {
        const size_t found = text.find(kSpecials[i], at);
        if (found == at) {
          length = kSpecials[i].size();
          id = 256 + static_cast<int32_t>(i);
          break;
        }
        length = std::min(length, found - at);
      }
      since_special = id >= 256 ? 0 : since_special + length;
      encoding.ids.push_back(id);
      encoding.offsets.emplace_back(at, at + length);
      at += length;
    }
    return encoding;
  }
  std::unique_ptr<TextDecoder> decoder(bool) const override { return nullptr; }
  int64_t vocab_size() const override { return 260; }
  bool has_token(int32_t id) const override { return id >= 0 && id < 260; }
  std::optional<int32_t> token_to_id(std::string_view) const override { return std::nullopt; }
  std::string_view id_to_token(int32_t id) const override { return kSpecials[id - 256]; }
  std::optional<int32_t> bos_id() const override { return adds_bos_ ? std::optional(258) : std::nullopt; }
  std::optional<int32_t> suffix_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return 259; }
  std::string bos_token() const override { return "<s>"; }
  std::string eos_token() const override { return "</s>"; }
  std::string digest() const override { return ""; }

 private:
  static constexpr std::array<std::string_view, 4> kSpecials{"<|im_start|>", "<|im_end|>", "<s>", "</s>"};
  size_t width_;
  bool adds_bos_;
};

const std::vector<ChatMessage> kChat{
    {"system", "S"}, {"user", "hello"}, {"assistant", "abcd"}, {"user", "x"}, {"assistant", "ef"}};

/// Supervised ids as text: specials as | (end markers).
std::string learned(const std::string& name, const Tokenizer& tokenizer, const ChatEncodingOptions& options = {},
                    const std::vector<ChatMessage>& chat = kChat) {
  const EncodedChat encoded = encode_chat(chat_templates().at(name), chat, tokenizer, options);
  EXPECT_EQ(encoded.ids.size(), encoded.supervised.size());
  std::string text;
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    if (encoded.supervised[i] != 0) text += encoded.ids[i] >= 256 ? '|' : static_cast<char>(encoded.ids[i]);
  }
  return text;
}

TEST(ChatEncodingTest, AnswersAndTheirEndMarkersAreLearned) {
  const PieceTokenizer bytes(1, true);
  for (const char* name : {"chatml", "qwen2.5", "smollm2", "alpaca", "plain_markers", "plain"})
    EXPECT_EQ(learned(name, bytes), "abcd|ef|") << name;
  for (const char* name : {"vicuna", "phi"}) EXPECT_EQ(learned(name, bytes), " abcd| ef|") << name;
  EXPECT_EQ(learned("llama2", bytes), " abcd | ef |");
  // Here <|eot_id|> is no special token: its bytes are learned.
  EXPECT_EQ(learned("llama3", bytes), "abcd<|eot_id|>ef<|eot_id|>");
}

TEST(ChatEncodingTest, TokensAcrossABorderAreNotLearned) {
  const PieceTokenizer pairs(2, true);
  // "<|im_start|>" "as si st an t\n" "ab cd" "<|im_end|>": ends with the marker; the second turn alike.
  EXPECT_EQ(learned("chatml", pairs), "ac|e|");
  const PieceTokenizer triples(3, true);
  // "ass ist ant \nab cd": the token "\nab" lies across the beginning, "cd" is inside; "\nef" lies across.
  EXPECT_EQ(learned("chatml", triples), "c||");
}

TEST(ChatEncodingTest, OnlyTheLastAnswerOrEverything) {
  const PieceTokenizer bytes(1, true);
  for (const char* name : {"chatml", "alpaca", "plain_markers", "plain"})
    EXPECT_EQ(learned(name, bytes, {.supervise = "last"}), "ef|") << name;
  const EncodedChat whole = encode_chat(chat_templates().at("chatml"), kChat, bytes, {.supervise = "whole"});
  EXPECT_THAT(whole.supervised, ::testing::Each(1));
  EXPECT_THAT(
      [&] { learned("chatml", bytes, {.supervise = "some"}); },
      ::testing::ThrowsMessage<InvalidArgument>(HasSubstr("supervise 'some' is unknown; known: all, last, whole")));
}

TEST(ChatEncodingTest, AnAnswerForContextIsNeverLearned) {
  const PieceTokenizer bytes(1, true);
  std::vector<ChatMessage> chat = kChat;
  chat[2].is_learned = false;
  for (const char* name : {"chatml", "alpaca", "plain_markers", "plain"}) {
    EXPECT_EQ(learned(name, bytes, {}, chat), "ef|") << name;
    EXPECT_EQ(learned(name, bytes, {.drop_system = true}, chat), "ef|") << name;
    EXPECT_EQ(learned(name, bytes, {.supervise = "last"}, chat), "ef|") << name;
    const std::string whole = learned(name, bytes, {.supervise = "whole"}, chat);
    EXPECT_THAT(whole, ::testing::AllOf(HasSubstr("hello"), HasSubstr("ef|"), ::testing::Not(HasSubstr("abcd"))))
        << name;
    EXPECT_EQ(whole.size() + 5, learned(name, bytes, {.supervise = "whole"}).size())
        << name << ": the answer and its end marker";
  }
  std::swap(chat[2].is_learned, chat[4].is_learned);
  EXPECT_EQ(learned("chatml", bytes, {.supervise = "last"}, chat), "");
  EXPECT_EQ(learned("chatml", bytes, {}, chat), "abcd|");
}

TEST(ChatEncodingTest, SystemMessagesCanBeLeftOut) {
  const PieceTokenizer bytes(1, true);
  const std::vector<ChatMessage> without(kChat.begin() + 1, kChat.end());
  const ChatTemplate& chatml = chat_templates().at("chatml");
  EXPECT_EQ(encode_chat(chatml, kChat, bytes, {.drop_system = true}).ids, encode_chat(chatml, without, bytes).ids);
  EXPECT_NE(encode_chat(chatml, kChat, bytes).ids, encode_chat(chatml, without, bytes).ids);
}

TEST(ChatEncodingTest, BosOnceAndOnlyWhereItBelongs) {
  for (const bool adds_bos : {true, false}) {
    const PieceTokenizer bytes(1, adds_bos);
    for (const std::string& name : chat_templates().names()) {
      const std::vector<int32_t> ids = encode_chat(chat_templates().at(name), kChat, bytes).ids;
      const bool always = name.starts_with("llama");
      const bool never = name == "chatml" || name.starts_with("qwen") || name == "smollm2";
      EXPECT_EQ(std::count(ids.begin(), ids.end(), 258), name == "llama2" ? 2
                                                         : always         ? 1
                                                         : never          ? 0
                                                         : adds_bos       ? 1
                                                                          : 0)
          << name;
      EXPECT_EQ(ids.front() == 258, !never && (always || adds_bos)) << name;
    }
  }
}

/// EOS stands at the end of an answer also where a token would lie across it.
TEST(ChatEncodingTest, MarksAsIdsNeverMoveIntoTheNextTurn) {
  const PieceTokenizer wide(7, true);
  const EncodedChat chat = encode_chat(chat_templates().at("plain"), kChat, wide);
  // S\n\nhell | o\n\nabcd: cut there, then \n\nx\n\nef.
  EXPECT_THAT(chat.ids, ElementsAre(258, 'S', 'o', 259, '\n', 259));
}

TEST(ChatEncodingTest, PromptIsTheBeginningOfTheTrainingText) {
  const PieceTokenizer bytes(1, true);
  for (const std::string& name : chat_templates().names()) {
    const std::vector<int32_t> prompt = encode_chat_prompt(chat_templates().at(name), std::span(kChat).first(4), bytes);
    const std::vector<int32_t> whole = encode_chat(chat_templates().at(name), kChat, bytes).ids;
    ASSERT_LT(prompt.size(), whole.size()) << name;
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), whole.begin())) << name;
  }
}

/// Special tokens in what a user says: parsed as transformers does, but never for templates with marks as ids.
TEST(ChatEncodingTest, TextOfSpecialTokensInMessages) {
  const PieceTokenizer bytes(1, true);
  const std::vector<ChatMessage> chat{{"user", "</s>"}, {"assistant", "ok"}};
  const auto count = [&](const char* name) {
    const std::vector<int32_t> ids = encode_chat(chat_templates().at(name), chat, bytes).ids;
    return std::count(ids.begin(), ids.end(), 259);
  };
  EXPECT_EQ(count("plain_markers"), 1);
  EXPECT_EQ(count("vicuna"), 2);
}

}  // namespace
}  // namespace moe
