#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "data/chat/canonical_jinja.h"
#include "data/chat/chat_templates.h"
#include "data/chat/directory_template.h"
#include "testing/message_of.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using chat::canonical_jinja;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CanonicalJinjaTest, SpellingMakesNoDifference) {
  const std::string one = "{% for m in messages %}{{ '<' + m['role'] + '>\\n' + m['content'] }}{% endfor %}";
  for (const char* other : {
           "{%- for m in messages -%}\n  {{- \"<\" + m.role + \">\\n\" + m.content -}}\n{%- endfor -%}",
           "{% for m in messages %}\n{{ '<' }}{{ m.role }}{{ '>\\n' }}{{ m.content }}{% endfor %}",
           "{% for m in messages %}\n<{{ m.role }}>\n{{ m.content }}{% endfor %}\n",
           "  {# a comment #}\n{%for m in messages%}<{{m[\"role\"]}}>\r\n{{m['content']}}{%endfor%}",
       }) {
    EXPECT_EQ(canonical_jinja(other), canonical_jinja(one)) << other;
  }
}

/// White space that is printed, operators, filters: each changes the form.
TEST(CanonicalJinjaTest, MeaningMakesADifference) {
  const std::string one = "{{ 'a' + b['c'] | trim }} {% if d == 'e' %}f{% endif %}";
  for (const char* other :
       {"{{ 'a' + b['c'] }} {% if d == 'e' %}f{% endif %}", "{{ 'a' + b['c'] | trim }}{% if d == 'e' %}f{% endif %}",
        "{{ 'a' + b['c'] | trim }} {%- if d == 'e' %}f{% endif %}",
        "{{ 'a' + b['c'] | trim }} {% if d != 'e' %}f{% endif %}",
        "{{ 'a' + b['c'] | trim }} {% if d == 'e ' %}f{% endif %}",
        "{{ 'a' - b['c'] | trim }} {% if d == 'e' %}f{% endif %}",
        "{{ ('a' + b['c']) | trim }} {% if d == 'e' %}f{% endif %}",
        "{{ 'a' if b else 'c' }} {% if d == 'e' %}f{% endif %}"}) {
    EXPECT_NE(canonical_jinja(other), canonical_jinja(one)) << other;
  }
}

TEST(CanonicalJinjaTest, WhatIsNotReadHasNoForm) {
  for (const char* text : {"{{ 'a }}", "{% if a", "{{ {'a': 1} }}", "{# never closed", "{{ '\\u0041' }}",
                           "{% raw %}{{ x }}{% endraw %}", "{{ 'a\\"}) {
    EXPECT_FALSE(canonical_jinja(text).has_value()) << text;
  }
  EXPECT_EQ(canonical_jinja(""), "");
  EXPECT_EQ(canonical_jinja("{"), "T \"{\"\n");
}

TEST(ChatRecognitionTest, KnowsItsOwnTextsWithAndWithoutBos) {
  for (const std::string& name : chat_templates().names()) {
    EXPECT_EQ(recognise_chat_template(chat_template_jinja(name, true)), name);
    EXPECT_EQ(recognise_chat_template(chat_template_jinja(name, false)), name);
  }
}

// As they stand in the tokenizer_config.json of the models named.
TEST(ChatRecognitionTest, KnowsPublishedTexts) {
  const std::string tail =
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
      "add_generation_prompt %}"
      "{{ '<|im_start|>assistant\n' }}{% endif %}";
  EXPECT_EQ(recognise_chat_template("{% for message in messages %}" + tail),
            "chatml");  // OpenHermes-2.5: line ends stand in the literal
  EXPECT_EQ(recognise_chat_template(
                "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
                "<|im_end|>\n' }}{% endif %}" +
                tail),
            "smollm2");
  EXPECT_EQ(
      recognise_chat_template("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                              "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" +
                              tail),
      "qwen2");
  EXPECT_EQ(
      recognise_chat_template("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                              "{{ '<|im_start|>system\nYou are someone else.<|im_end|>\n' }}{% endif %}" +
                              tail),
      std::nullopt);
}

class DirectoryTemplateTest : public ::testing::Test {
 protected:
  void config(const json& values) { write_file_atomically(folder_ / "tokenizer_config.json", values.dump()); }
  std::string error() const {
    return testing::message_of([&] { choose_chat_template(folder_.path()); });
  }
  testing::TempDir folder_;
};

TEST_F(DirectoryTemplateTest, WithoutAnyItIsPlainMarkers) {
  EXPECT_EQ(choose_chat_template(folder_.path()).name, "plain_markers");
  config({{"bos_token", "<s>"}, {"chat_template", nullptr}});
  EXPECT_EQ(choose_chat_template(folder_.path()).name, "plain_markers");
}

TEST_F(DirectoryTemplateTest, TextListAndFileOfItsOwn) {
  config({{"chat_template", chat_template_jinja("llama2", true)}});
  EXPECT_EQ(choose_chat_template(folder_.path()).name, "llama2");
  const json tools = {{"name", "tool_use"}, {"template", "{{ tools }}"}},
             usual = {{"name", "default"}, {"template", chat_template_jinja("qwen2", true)}};
  config({{"chat_template", {tools, usual}}});
  EXPECT_EQ(choose_chat_template(folder_.path()).name, "qwen2");
  write_file_atomically(folder_ / "chat_template.jinja", chat_template_jinja("phi", false));
  EXPECT_EQ(choose_chat_template(folder_.path()).name, "phi");
}

TEST_F(DirectoryTemplateTest, UnknownOnesAreAProblemThatListsTheChoices) {
  config({{"chat_template", "{{ messages }}"}});
  const ChatTemplateChoice choice = choose_chat_template(folder_.path());
  EXPECT_EQ(choice.name, "");
  EXPECT_THAT(choice.problem, AllOf(HasSubstr("tokenizer_config.json: chat_template"), HasSubstr("set `template:`"),
                                    HasSubstr("plain_markers, plain, llama2, llama3, llama3.1, chatml")));
  config({{"chat_template", json::array({{{"name", "a"}, {"template", "x"}}, {{"name", "b"}, {"template", "y"}}})}});
  EXPECT_THAT(choose_chat_template(folder_.path()).problem, HasSubstr("none of its entries is named \"default\""));
}

TEST_F(DirectoryTemplateTest, WhatATrainedModelNeedsBesideIt) {
  const std::string vicuna = chat_template_jinja("vicuna", true);
  EXPECT_EQ(chat_template_to_write(folder_.path(), "vicuna", true), vicuna) << "it had none";
  config({{"chat_template", chat_template_jinja("qwen2", true)}});
  EXPECT_EQ(chat_template_to_write(folder_.path(), "qwen2", false), "") << "it has this one";
  EXPECT_EQ(chat_template_to_write(folder_.path(), "vicuna", true), vicuna) << "it has another one";
  config({{"chat_template", "{{ unknown }}"}});
  EXPECT_EQ(chat_template_to_write(folder_.path(), "vicuna", true), "") << "taken at the user's word";
}

TEST_F(DirectoryTemplateTest, BadFilesAreErrorsThatNameThem) {
  config({{"chat_template", 3}});
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: chat_template is number; expected a text or a list"));
  config({{"chat_template", json::array({"x"})}});
  EXPECT_THAT(error(), HasSubstr("an entry is not {\"name\""));
  write_file_atomically(folder_ / "tokenizer_config.json", "[]");
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: not a JSON object"));
  write_file_atomically(folder_ / "tokenizer_config.json", "{");
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: not valid JSON"));
}

}  // namespace
}  // namespace moe
