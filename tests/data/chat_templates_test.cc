#include "data/chat/chat_templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/error.h"
#include "data/chat/renderers.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const ChatTokens kTokens{"<s>", "</s>", true};
const std::vector<ChatMessage> kChat{
    {"system", " Be brief.\n"}, {"user", " Hi "}, {"assistant", " Yo. "}, {"user", "Bye"}, {"assistant", "So long"}};

RenderedChat render(const std::string& name, const std::vector<ChatMessage>& chat, const ChatOptions& options = {},
                    const ChatTokens& tokens = kTokens) {
  return chat_templates().at(name).render(chat, tokens, options);
}

/// The conversation of five messages, by template.
const std::map<std::string, std::string> kGolden{
    {"plain_markers",
     "### System:\n Be brief.\n\n\n### User:\n Hi \n\n### Assistant:\n Yo. \n\n### User:\nBye\n\n### Assistant:\nSo "
     "long"},
    {"plain", " Be brief.\n\n\n Hi \n\n Yo. \n\nBye\n\nSo long"},
    {"llama2", "<s>[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\n Hi [/INST] Yo. </s><s>[INST] Bye [/INST] So long </s>"},
    {"llama3",
     "<s><|start_header_id|>system<|end_header_id|>\n\nBe "
     "brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nYo.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|"
     "eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nSo long<|eot_id|>"},
    {"llama3.1",
     "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul "
     "2024\n\nBe brief."
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
     "\n\nYo.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nSo "
     "long<|eot_id|>"},
    {"chatml",
     "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n Yo. "
     "<|im_end|>\n"
     "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo long<|im_end|>\n"},
    {"vicuna", "<s> Be brief.\n USER:  Hi  ASSISTANT:  Yo. </s>USER: Bye ASSISTANT: So long</s>"},
    {"alpaca",
     "<s> Be brief.\n\n\n### Instruction:\n Hi \n\n### Response: Yo. </s>\n\n### Instruction:\nBye\n\n### Response:So "
     "long</s>"},
    {"phi", "<s> Be brief.\n\nInstruct:  Hi \nOutput:  Yo. </s>\nInstruct: Bye\nOutput: So long</s>\n"},
};

TEST(ChatTemplatesTest, RenderAsPublished) {
  for (const auto& [name, text] : kGolden) EXPECT_EQ(render(name, kChat).text, text) << name;
}

TEST(ChatTemplatesTest, DefaultSystemMessages) {
  const std::vector<ChatMessage> chat{{"user", "Hi"}};
  const ChatOptions prompt{.add_generation_prompt = true};
  EXPECT_EQ(render("smollm2", chat, prompt).text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi"
            "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render("qwen2.5", chat, prompt).text,
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\nHi"
            "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render("qwen2", chat).text,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
  EXPECT_EQ(render("chatml", chat).text, "<|im_start|>user\nHi<|im_end|>\n");
  EXPECT_EQ(render("vicuna", chat, prompt).text,
            "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and "
            "polite answers to the user's questions. USER: Hi ASSISTANT:");
  EXPECT_EQ(
      render("alpaca", chat, prompt).text,
      "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
      "### Instruction:\nHi\n\n### Response:");
  EXPECT_EQ(render("alpaca", {{"user", "Add.", "1, 2"}}, prompt).text,
            "<s>Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response "
            "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:");
  EXPECT_EQ(render("llama2", chat, prompt).text, "<s>[INST] Hi [/INST]");
  EXPECT_EQ(render("phi", chat, prompt, {"", "<|endoftext|>", false}).text, "Instruct: Hi\nOutput:");
  EXPECT_EQ(
      render("llama3", chat, prompt).text,
      "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(render("plain_markers", chat, prompt).text, "### User:\nHi\n\n### Assistant:\n");
  EXPECT_THAT(render("llama3.1", chat, {.date = "1 Jan 2030"}).text, HasSubstr("Today Date: 1 Jan 2030\n\n<|eot_id|>"));
}

/// Where a template trims, it is what Python trims.
TEST(ChatTemplatesTest, TrimsUnicodeWhiteSpaceAsPythonDoes) {
  for (const char* space :
       {" ", "\t", "\x0B", "\x1C", "\x1F", "\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x8A",
        "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"}) {
    EXPECT_EQ(chat::python_strip(std::string(space) + space + "a" + space + "b" + space),
              std::string("a") + space + "b");
    EXPECT_EQ(chat::python_strip(space), "");
  }
  for (const char* text :
       {"\xE2\x80\x8B", "\xC2\xAD", "\xEF\xBB\xBF", "\x1B", "\xE1\xA0\x8E", "\xC3\xA0", "\xE2\x82\xAC"}) {
    EXPECT_EQ(chat::python_strip(text), text);
  }
}

TEST(ChatTemplatesTest, AnswersStandWhereTheSpansSay) {
  for (const std::string& name : chat_templates().names()) {
    const RenderedChat chat = render(name, kChat);
    const bool trims = name.starts_with("llama");
    ASSERT_EQ(chat.assistant_turns.size(), 2U) << name;
    std::vector<std::string> answers;
    const std::string& marker = chat_templates().at(name).end_marker;
    for (const auto& [begin, end, marker_end, is_learned] : chat.assistant_turns) {
      // A space between prompt and answer is part of what is generated.
      const bool has_space = name == "llama2" || name == "vicuna" || name == "phi";
      answers.push_back(chat.text.substr(begin + (has_space ? 1 : 0), end - begin - (has_space ? 1 : 0)));
      const std::string rest = chat.text.substr(end, marker_end - end);
      if (chat_templates().at(name).has_marks_as_ids) {
        EXPECT_EQ(rest, "") << name;
      } else {
        EXPECT_EQ(rest, name == "llama2" ? " </s>" : marker.empty() ? "</s>" : marker) << name;
      }
    }
    EXPECT_THAT(answers, ElementsAre(trims ? "Yo." : " Yo. ", "So long")) << name;
  }
}

/// Training text and prompt must agree, else the model never sees in use what it was trained on.
TEST(ChatTemplatesTest, AnAnswerBeginsWhereItsPromptEnds) {
  for (const std::string& name : chat_templates().names()) {
    const RenderedChat whole = render(name, kChat);
    for (size_t turn = 0; turn < 2; ++turn) {
      const std::vector<ChatMessage> asked(kChat.begin(), kChat.begin() + 2 + 2 * static_cast<int64_t>(turn));
      EXPECT_EQ(render(name, asked, {.add_generation_prompt = true}).text,
                whole.text.substr(0, whole.assistant_turns[turn].begin))
          << name;
    }
  }
}

TEST(ChatTemplatesTest, BosAsTheTokenizerHasIt) {
  const ChatTokens silent{"<|im_start|>", "<|im_end|>", false};
  for (const std::string& name : chat_templates().names()) {
    const bool always = name.starts_with("llama"), optional = name == "vicuna" || name == "alpaca" || name == "phi";
    EXPECT_EQ(render(name, kChat).prints_bos, always || optional) << name;
    EXPECT_EQ(render(name, kChat, {}, silent).prints_bos, always) << name;
    EXPECT_EQ(render(name, kChat).text.starts_with("<s>"), always || optional) << name;
    EXPECT_EQ(chat_template_jinja(name, true) == chat_template_jinja(name, false),
              !optional && !name.starts_with("plain"))
        << name;
  }
}

TEST(ChatTemplatesTest, RefusesWhatATemplateHasNoPlaceFor) {
  const auto error_of = [](const std::string& name, const std::vector<ChatMessage>& chat) {
    return testing::message_of([&] { render(name, chat); });
  };
  EXPECT_THAT(error_of("llama2", {{"user", "a"}, {"user", "b"}}),
              HasSubstr("messages[1] is of the role 'user'; template llama2"));
  EXPECT_THAT(error_of("llama2", {{"system", "s"}, {"assistant", "b"}}),
              HasSubstr("messages[1] is of the role 'assistant'"));
  EXPECT_THAT(error_of("vicuna", {{"user", "a"}, {"system", "s"}}),
              HasSubstr("messages[1] is a system message; template vicuna"));
  EXPECT_THAT(error_of("chatml", {{"user", "a", "more"}}), HasSubstr("messages[0] has an `input`"));
  EXPECT_EQ(error_of("chatml", {{"user", "a"}, {"system", "s"}}), "nothing was thrown");
  EXPECT_THAT([] { chat_templates().at("zephyr"); },
              ::testing::ThrowsMessage<InvalidArgument>(
                  HasSubstr("unknown chat template 'zephyr'; known: plain_markers, plain, llama2")));
}

}  // namespace
}  // namespace moe
