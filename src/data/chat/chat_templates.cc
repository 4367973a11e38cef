#include "data/chat/chat_templates.h"

#include "data/chat/default_texts.h"
#include "data/chat/jinja_texts.h"
#include "data/chat/renderers.h"

namespace moe {

using namespace chat;

const Registry<ChatTemplate>& chat_templates() {
  static const Registry<ChatTemplate> templates(
      "chat template",
      {
          {"plain_markers",
           {.summary = "a title line per turn (### User:), for base models without chat tokens",
            .render = plain_markers,
            .has_marks_as_ids = true,
            .jinja = jinja_plain_markers()}},
          {"plain",
           {.summary = "the contents alone, a blank line between them",
            .render = plain,
            .has_marks_as_ids = true,
            .jinja = jinja_plain()}},
          {"llama2",
           {.summary = "[INST] U [/INST] A, the system message in <<SYS>> (LLaMA-2-Chat)",
            .render = llama2,
            .jinja = jinja_llama2()}},
          {"llama3",
           {.summary = "<|start_header_id|>ROLE<|end_header_id|> ... <|eot_id|> (LLaMA-3-Instruct)",
            .render = llama3,
            .end_marker = "<|eot_id|>",
            .jinja = jinja_llama3()}},
          {"llama3.1",
           {.summary = "llama3 with a system block that has dates (LLaMA-3.1-Instruct)",
            .render = llama3_1,
            .end_marker = "<|eot_id|>",
            .jinja = jinja_llama3_1()}},
          {"chatml",
           {.summary = "<|im_start|>ROLE ... <|im_end|>, without a default system message",
            .render = chatml(""),
            .end_marker = "<|im_end|>",
            .jinja = jinja_chatml("")}},
          {"qwen2",
           {.summary = "chatml with the default system message of Qwen1.5 and Qwen2",
            .render = chatml(std::string(kQwen2System)),
            .end_marker = "<|im_end|>",
            .jinja = jinja_chatml(kQwen2System)}},
          {"qwen2.5",
           {.summary = "chatml with the default system message of Qwen2.5-Instruct",
            .render = chatml(std::string(kQwen25System)),
            .end_marker = "<|im_end|>",
            .jinja = jinja_chatml(kQwen25System)}},
          {"smollm2",
           {.summary = "chatml with the default system message of SmolLM2-Instruct",
            .render = chatml(std::string(kSmolLm2System)),
            .end_marker = "<|im_end|>",
            .jinja = jinja_chatml(kSmolLm2System)}},
          {"vicuna",
           {.summary = "USER: U ASSISTANT: A, behind a default system sentence (Vicuna 1.1)",
            .render = vicuna,
            .jinja = jinja_vicuna()}},
          {"alpaca",
           {.summary = "### Instruction:, ### Input:, ### Response: behind a preamble (Stanford Alpaca)",
            .render = alpaca,
            .has_place_for_input = true,
            .jinja = jinja_alpaca()}},
          {"phi", {.summary = "Instruct: U, Output: A (Phi-2)", .render = phi, .jinja = jinja_phi()}},
      });
  return templates;
}

std::string chat_template_jinja(std::string_view name, bool tokenizer_adds_bos) {
  std::string text = chat_templates().at(name).jinja;
  // llama3.1 prints BOS for every tokenizer, as its published text does.
  const bool is_optional = text.starts_with(kJinjaBos) && name != "llama3.1";
  if (is_optional && !tokenizer_adds_bos) text.erase(0, kJinjaBos.size());
  return text;
}

}  // namespace moe
