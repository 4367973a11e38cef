#pragma once

#include <string_view>

/// Fixed texts of templates, each from its publisher.
namespace moe::chat {

inline constexpr std::string_view kSystemTitle = "### System:\n", kUserTitle = "### User:\n",
                                  kAssistantTitle = "### Assistant:\n";

/// Qwen2.5's tokenizer_config.json.
inline constexpr std::string_view kQwen25System =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
/// Qwen1.5's and Qwen2's.
inline constexpr std::string_view kQwen2System = "You are a helpful assistant.";
/// SmolLM2-Instruct's.
inline constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
/// FastChat, conversation template vicuna_v1.1.
inline constexpr std::string_view kVicunaSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.";
/// Stanford Alpaca, train.py.
inline constexpr std::string_view kAlpacaPreamble =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
inline constexpr std::string_view kAlpacaPreambleWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.";

}  // namespace moe::chat
