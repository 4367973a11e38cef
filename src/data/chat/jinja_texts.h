#pragma once

#include <string>
#include <string_view>

/// The Jinja sources of our templates, for transformers, vLLM and llama.cpp: `trim_blocks` and `lstrip_blocks` on,
/// variables messages, add_generation_prompt, bos_token, eos_token. Peer tests render them with jinja2 and compare with
/// our renderers.
namespace moe::chat {

/// Stands first in the Jinja sources of templates that print BOS only where the tokenizer adds one itself.
inline constexpr std::string_view kJinjaBos = "{{ bos_token }}";

std::string jinja_plain_markers();
std::string jinja_plain();
std::string jinja_llama2();
std::string jinja_llama3();
std::string jinja_llama3_1();
/// See chatml(); the form of SmolLM2's own file.
std::string jinja_chatml(std::string_view default_system);
std::string jinja_vicuna();
std::string jinja_alpaca();
std::string jinja_phi();

}  // namespace moe::chat
