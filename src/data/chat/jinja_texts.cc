#include "data/chat/jinja_texts.h"

#include "common/error.h"
#include "data/chat/default_texts.h"

namespace moe::chat {
namespace {

constexpr std::string_view kRefuseLateSystem =
    R"({% else %}{{ raise_exception('A system message can only come first') }}{% endif %})";

/// As a string literal of Jinja, which has Python's escapes.
std::string jinja_literal(std::string_view text) {
  std::string literal = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') literal += '\\';
    literal += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return literal + "\"";
}

}  // namespace

std::string jinja_plain_markers() {
  return std::string(kJinjaBos) +
         R"({% for message in messages %}{% if not loop.first %}{{ '\n\n' }}{% endif %})"
         R"({% if message['role'] == 'system' %}{{ '### System:\n' }}{% elif message['role'] == 'user' %}{{ '### User:\n' }})"
         R"({% else %}{{ '### Assistant:\n' }}{% endif %}{{ message['content'] }})"
         R"({% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %})"
         R"({% if add_generation_prompt %}{% if messages %}{{ '\n\n' }}{% endif %}{{ '### Assistant:\n' }}{% endif %})";
}

std::string jinja_plain() {
  return std::string(kJinjaBos) +
         R"({% for message in messages %}{% if not loop.first %}{{ '\n\n' }}{% endif %}{{ message['content'] }})"
         R"({% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %})"
         R"({% if add_generation_prompt %}{{ '\n\n' }}{% endif %})";
}

std::string jinja_llama2() {
  return R"({% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %})"
         R"({% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %})"
         R"({% set system_message = false %}{% endif %}{% for message in loop_messages %})"
         R"({% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %})"
         R"({{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %})"
         R"({% if loop.index0 == 0 and system_message != false %})"
         R"({% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %})"
         R"({% else %}{% set content = message['content'] %}{% endif %})"
         R"({% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }})"
         R"({% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %})";
}

std::string jinja_llama3() {
  return R"({% set loop_messages = messages %}{% for message in loop_messages %})"
         R"({% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %})"
         R"({% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %})"
         R"({% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})";
}

std::string jinja_llama3_1() {
  return R"({{ bos_token }}{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %})"
         R"({% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim %})"
         R"({% set loop_messages = messages[1:] %}{% else %}{% set system_message = '' %}{% set loop_messages = messages %}{% endif %})"
         R"({{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }})"
         R"({{ system_message + '<|eot_id|>' }}{% for message in loop_messages %})"
         R"({{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %})"
         R"({% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})";
}

std::string jinja_chatml(std::string_view default_system) {
  std::string text = "{% for message in messages %}";
  if (!default_system.empty()) {
    text += "{% if loop.first and messages[0]['role'] != 'system' %}{{ " +
            jinja_literal(concat("<|im_start|>system\n", default_system, "<|im_end|>\n")) + " }}{% endif %}";
  }
  return text + R"({{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %})"
                R"({% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";
}

std::string jinja_vicuna() {
  return concat(
      kJinjaBos,
      R"({% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{{ messages[0]['content'] + ' ' }})"
      R"({% else %}{% set loop_messages = messages %}{{ )",
      jinja_literal(concat(kVicunaSystem, " ")),
      R"( }}{% endif %}{% for message in loop_messages %}{% if message['role'] == 'user' %})"
      R"({{ 'USER: ' + message['content'] + ' ' }}{% elif message['role'] == 'assistant' %})"
      R"({{ 'ASSISTANT: ' + message['content'] + eos_token }})",
      kRefuseLateSystem, R"({% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %})");
}

std::string jinja_alpaca() {
  return concat(
      kJinjaBos,
      R"({% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{{ messages[0]['content'] }})"
      R"({% else %}{% set loop_messages = messages %}{% if messages[0]['input'] %}{{ )",
      jinja_literal(kAlpacaPreambleWithInput), R"( }}{% else %}{{ )", jinja_literal(kAlpacaPreamble),
      R"( }}{% endif %}{% endif %}{% for message in loop_messages %}{% if message['role'] == 'user' %})"
      R"({{ '\n\n### Instruction:\n' + message['content'] }})"
      R"({% if message['input'] %}{{ '\n\n### Input:\n' + message['input'] }}{% endif %})"
      R"({% elif message['role'] == 'assistant' %}{{ '\n\n### Response:' + message['content'] + eos_token }})",
      kRefuseLateSystem, R"({% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:' }}{% endif %})");
}

std::string jinja_phi() {
  return std::string(kJinjaBos) +
         R"({% for message in messages %}{% if message['role'] == 'assistant' %})"
         R"({{ 'Output: ' + message['content'] + eos_token + '\n' }})"
         R"({% elif message['role'] == 'user' %}{{ 'Instruct: ' + message['content'] + '\n' }})"
         R"({% else %}{{ message['content'] + '\n' }}{% endif %}{% endfor %})"
         R"({% if add_generation_prompt %}{{ 'Output:' }}{% endif %})";
}

}  // namespace moe::chat
