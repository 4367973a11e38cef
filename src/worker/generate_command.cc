#include <CLI/App.hpp>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/option_checks.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/generator.h"
#include "eval/prompt.h"
#include "runtime/loaded_model.h"
#include "worker/commands.h"
#include "worker/model_options.h"

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
  int64_t top_k = 0;
};

/// A model, and what it is to continue.
struct Prompted {
  OpenedModel opened;
  std::vector<int32_t> ids;
  std::set<int32_t> stops;
};

Prompted read_prompt(const GenerateOptions& options) {
  TextNeeds needs{.tokenizer = TextNeeds::TokenizerFile::kIfThere};
  if (options.is_chat) needs.chat_template = options.chat_template;
  OpenedModel opened = open_model(options.model, needs);
  if (options.top_k > 0) opened.directory.use_top_k(options.top_k);
  const ModelConfig& config = opened.directory.config();
  if (!opened.text.tokenizer)
    throw InvalidArgument(options.model +
                          ": there is no tokenizer.json and no tokenizer.model; copy the model's tokenizer file there");
  const SpecialTokens specials = options.parses_specials ? SpecialTokens::kParse : SpecialTokens::kAsText;
  const auto [ids, stops] = options.is_chat ? chat_prompt(options.prompt, options.system, opened)
                                            : text_prompt(options.prompt, specials, opened);
  if (ids.empty())
    throw InvalidArgument("--prompt is empty and the model has no BOS token: give a prompt of at least one character");
  if (static_cast<int64_t>(ids.size()) >= config.max_positions) {
    throw InvalidArgument(concat("--prompt has ", ids.size(), " tokens; the model takes fewer than ",
                                 config.max_positions, " (max_position_embeddings); shorten the prompt"));
  }
  return {std::move(opened), ids, stops};
}

/// All ranks make the same continuation, each with the experts of all; rank 0 prints it.
ExitCode run_generate(const GenerateOptions& options, Communicator& world) {
  Mesh mesh(world, world.size());
  std::optional<Prompted> prompted;
  std::optional<LoadedModel> model;
  agree(world, "load " + options.model, [&] {
    prompted.emplace(read_prompt(options));
    model.emplace(load_model(prompted->opened, mesh));
  });
  std::ostream silent(nullptr);
  std::ostream& out = world.rank() == 0 ? std::cout : silent;
  TextStream text(*prompted->opened.text.tokenizer, /*skip_special_tokens=*/true);
  for (const int32_t id : prompted->ids) text.push(id);
  if (!options.is_chat) out << options.prompt << std::flush;
  generate(*model, prompted->ids, {options.max_tokens, options.temperature, options.seed, prompted->stops},
           [&](int32_t id) { out << text.push(id) << std::flush; });
  out << text.finish() << std::endl;
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
  add_top_k_option(*command, options->top_k);
  command->footer(
      "Prints the prompt and its continuation as it comes; stops at an end token of config.json, "
      "generation_config.json or\n"
      "the chat template. Under mpirun the experts are spread over the ranks.\n\n"
      "Examples:\n"
      "  moe-worker generate examples/base-7m --prompt 'The old man'\n"
      "  moe-worker generate runs/quickstart/stage2/output-t0001 --prompt 'Once upon a time' --temperature 0.8 --seed "
      "1\n"
      "  moe-worker generate runs/chat/stage1/output-t0001 --chat --system 'Be brief.' --prompt 'What is a neuron?'\n"
      "  bash deploy/gang.sh --ranks 4 --once -- moe-worker generate MODEL --prompt 'Once upon a time'");
  return {command, [options](Communicator& world) { return run_generate(*options, world); }, /*uses_all_ranks=*/true};
}

}  // namespace moe
