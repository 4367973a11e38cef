#include <CLI/App.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/option_checks.h"
#include "common/python_json.h"
#include "common/rng.h"
#include "data/chat/chat_encoding.h"
#include "data/chat/chat_templates.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/model_settings.h"
#include "model/decoder.h"
#include "model/json_fields.h"
#include "worker/commands.h"

namespace moe {
namespace {

struct GenerateOptions {
  std::string model;
  std::string prompt;
  bool is_chat = false;
  std::vector<std::string> system;
  std::string chat_template;
  bool parses_specials = false;
  int64_t max_tokens = 128;
  double temperature = 0;
  uint64_t seed = 0;
};

/// The most likely token (lowest id on ties) for temperature 0, else a draw from softmax(logits / temperature).
int64_t choose(const at::Tensor& logits_V, double temperature, CounterRng& rng) {
  const at::Tensor logits = logits_V.to(at::kDouble).contiguous();
  const double* values = logits.const_data_ptr<double>();
  const int64_t vocabulary = logits.numel();
  const double largest = *std::max_element(values, values + vocabulary);
  if (temperature <= 0) return std::find(values, values + vocabulary, largest) - values;
  double total = 0;
  for (int64_t v = 0; v < vocabulary; ++v) total += std::exp((values[v] - largest) / temperature);
  double rest = rng.uniform() * total;
  for (int64_t v = 0; v < vocabulary; ++v) {
    rest -= std::exp((values[v] - largest) / temperature);
    if (rest < 0) return v;
  }
  return vocabulary - 1;
}

/// Prompt as ids, and the ids after which nothing more is to be said.
struct Prompt {
  std::vector<int32_t> ids;
  std::set<int32_t> stops;
};

/// `eos_token_id` of config.json and of generation_config.json (a number or a list), and the tokenizer's EOS: chat
/// models often end an answer with one token and a document with another.
std::set<int32_t> stop_ids(const ModelDirectory& directory, const Tokenizer& tokenizer) {
  std::vector<int64_t> ids = directory.config().eos_token_ids;
  if (const std::filesystem::path file = directory.path() / "generation_config.json"; is_there(file)) {
    const nlohmann::json values = parse_python_json(read_file(file), file.string());
    const std::vector<int64_t> more = JsonFields(values, file.string()).token_ids("eos_token_id");
    ids.insert(ids.end(), more.begin(), more.end());
  }
  std::set<int32_t> stops;
  for (const int64_t id : ids) {
    if (id >= 0 && id <= INT32_MAX) stops.insert(static_cast<int32_t>(id));
  }
  if (tokenizer.eos_id()) stops.insert(*tokenizer.eos_id());
  return stops;
}

Prompt chat_prompt(const GenerateOptions& options, const ModelDirectory& directory, const Tokenizer& tokenizer) {
  const ChatTemplateChoice choice = chat_template_for(options.model, directory.config(), options.chat_template);
  if (choice.name.empty()) throw InvalidArgument(choice.problem + " (--template NAME of this command)");
  const ChatTemplate& chat_template = chat_templates().at(choice.name);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) {
    std::string system;
    for (const std::string& text : options.system) system += (system.empty() ? "" : "\n") + text;
    messages.push_back({"system", system});
  }
  messages.push_back({"user", options.prompt});
  Prompt prompt{encode_chat_prompt(chat_template, messages, tokenizer), stop_ids(directory, tokenizer)};
  if (!chat_template.end_marker.empty()) {
    if (const auto marker = tokenizer.token_to_id(chat_template.end_marker)) prompt.stops.insert(*marker);
  }
  return prompt;
}

Prompt text_prompt(const GenerateOptions& options, const ModelDirectory& directory, const Tokenizer& tokenizer) {
  Prompt prompt{{}, stop_ids(directory, tokenizer)};
  if (tokenizer.bos_id()) prompt.ids.push_back(*tokenizer.bos_id());
  const Encoding text =
      tokenizer.encode(options.prompt, options.parses_specials ? SpecialTokens::kParse : SpecialTokens::kAsText);
  prompt.ids.insert(prompt.ids.end(), text.ids.begin(), text.ids.end());
  return prompt;
}

ExitCode generate(const GenerateOptions& options) {
  const ModelDirectory directory(options.model);
  const ModelConfig& config = directory.config();
  const auto tokenizer = tokenizer_for(options.model);
  if (!tokenizer)
    throw InvalidArgument(options.model +
                          ": there is no tokenizer.json and no tokenizer.model; copy the model's tokenizer file there");
  const auto [ids, stops] =
      options.is_chat ? chat_prompt(options, directory, *tokenizer) : text_prompt(options, directory, *tokenizer);
  if (ids.empty())
    throw InvalidArgument("--prompt is empty and the model has no BOS token: give a prompt of at least one character");
  if (static_cast<int64_t>(ids.size()) >= config.max_positions) {
    throw InvalidArgument(concat("--prompt has ", ids.size(), " tokens; the model takes fewer than ",
                                 config.max_positions, " (max_position_embeddings); shorten the prompt"));
  }

  const at::NoGradGuard no_grad;
  const Decoder decoder = load_decoder(directory, at::kFloat, all_experts(config));
  LocalDispatcher dispatcher;
  KvCache cache;
  CounterRng rng(options.seed, kStreamSampling);
  TextStream text(*tokenizer, /*skip_special_tokens=*/true);
  for (const int32_t id : ids) text.push(id);
  if (!options.is_chat) std::cout << options.prompt << std::flush;

  std::vector<int64_t> pending(ids.begin(), ids.end());
  int64_t position = 0;
  for (int64_t step = 0;
       step < options.max_tokens && position + static_cast<int64_t>(pending.size()) <= config.max_positions; ++step) {
    const auto count = static_cast<int64_t>(pending.size());
    const TokenBatch batch{
        at::tensor(pending, at::kLong), at::arange(position, position + count, at::kLong), {0, count}};
    const at::Tensor hidden = decoder.forward(batch, dispatcher, {.cache = &cache}).hidden_TD;
    position += count;
    const int64_t next =
        choose(decoder.logits(hidden.slice(0, count - 1, count)).select(0, 0), options.temperature, rng);
    if (stops.contains(static_cast<int32_t>(next))) break;
    std::cout << text.push(static_cast<int32_t>(next)) << std::flush;
    pending = {next};
  }
  std::cout << text.finish() << std::endl;
  return ExitCode::kDone;
}

}  // namespace

Subcommand add_generate_command(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a model, dense or MoE");
  command->add_option("MODEL", options->model, "Model directory (Hugging Face layout or native)")->required();
  command
      ->add_option("--prompt", options->prompt,
                   "Text to continue, or with --chat what the user says; the model's BOS is put first")
      ->required();
  command->add_flag("--chat", options->is_chat,
                    "Answer the prompt as a chat message, in the model's chat template; prints the answer alone");
  command->add_option("--system", options->system, "With --chat: system message; given several times, the lines of one")
      ->needs("--chat");
  command
      ->add_option("--template", options->chat_template,
                   "With --chat: the chat template, where the model's own is unknown (docs/chat_templates.md)")
      ->needs("--chat");
  command
      ->add_flag("--parse-special-tokens", options->parses_specials,
                 "Text such as <|im_end|> in the prompt is the special token")
      ->excludes("--chat");
  command->add_option("--max-tokens", options->max_tokens, "Tokens to add at most")
      ->capture_default_str()
      ->check(positive_number());
  command
      ->add_option("--temperature", options->temperature,
                   "0: the most likely token each time; else softmax(logits / T)")
      ->capture_default_str()
      ->check(nonnegative_number());
  command->add_option("--seed", options->seed, "Seed of the draws when the temperature is above 0")
      ->capture_default_str();
  command->footer(
      "Prints the prompt and its continuation as it comes; stops at an end token of config.json, "
      "generation_config.json or\n"
      "the chat template.\n\n"
      "Examples:\n"
      "  moe-worker generate examples/base-7m --prompt 'The old man'\n"
      "  moe-worker generate runs/quickstart/stage2/output-t0001 --prompt 'Once upon a time' --temperature 0.8 --seed "
      "1\n"
      "  moe-worker generate runs/chat/stage1/output-t0001 --chat --system 'Be brief.' --prompt 'What is a neuron?'");
  return {command, [options](Communicator&) { return generate(*options); }};
}

}  // namespace moe
