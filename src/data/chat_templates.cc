#include "data/chat_templates.h"

#include "data/chat/default_texts.h"
#include "data/chat/jinja_texts.h"
#include "data/chat/renderers.h"

namespace moe {

using namespace chat;

const Registry<ChatTemplate>& chat_templates() {
  static const Registry<ChatTemplate> templates(
      "chat template",
      {
          {"plain_markers", {"a title line per turn (### User:), for base models without chat tokens", plain_markers, "", true,
                             jinja_plain_markers()}},
          {"plain", {"the contents alone, a blank line between them", plain, "", true, jinja_plain()}},
          {"llama2", {"[INST] U [/INST] A, system in <<SYS>> (LLaMA-2-Chat)", llama2, "", false, jinja_llama2()}},
          {"llama3", {"<|start_header_id|>ROLE<|end_header_id|> (LLaMA-3-Instruct)", llama3, "<|eot_id|>", false, jinja_llama3()}},
          {"llama3.1", {"llama3 with a system block that has dates (LLaMA-3.1-Instruct)", llama3_1, "<|eot_id|>", false,
                        jinja_llama3_1()}},
          {"chatml", {"<|im_start|>ROLE ... <|im_end|>, no default system message", chatml(""), "<|im_end|>", false,
                      jinja_chatml("")}},
          {"qwen2", {"chatml with the system message of Qwen1.5 and Qwen2", chatml(std::string(kQwen2System)), "<|im_end|>", false,
                     jinja_chatml(kQwen2System)}},
          {"qwen2.5", {"chatml with the system message of Qwen2.5-Instruct", chatml(std::string(kQwen25System)), "<|im_end|>",
                       false, jinja_chatml(kQwen25System)}},
          {"smollm2", {"chatml with the system message of SmolLM2-Instruct", chatml(std::string(kSmolLm2System)), "<|im_end|>",
                       false, jinja_chatml(kSmolLm2System)}},
          {"vicuna", {"USER: U ASSISTANT: A, with a default system sentence (Vicuna 1.1)", vicuna, "", false, jinja_vicuna()}},
          {"alpaca", {"### Instruction:, ### Input:, ### Response: behind a preamble (Stanford Alpaca)", alpaca, "", false,
                      jinja_alpaca()}},
          {"phi", {"Instruct: U, Output: A (Phi-2)", phi, "", false, jinja_phi()}},
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
