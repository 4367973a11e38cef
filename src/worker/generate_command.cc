#include <CLI/App.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/rng.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "worker/commands.h"

namespace moe {
namespace {

struct GenerateOptions {
  std::string model;
  std::string prompt;
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

ExitCode generate(const GenerateOptions& options) {
  const ModelDirectory directory(options.model);
  const ModelConfig& config = directory.config();
  const auto tokenizer = Tokenizer::from_directory(options.model);
  std::vector<int32_t> ids = tokenizer->encode(options.prompt).ids;
  if (config.bos_token_id) ids.insert(ids.begin(), static_cast<int32_t>(*config.bos_token_id));
  if (ids.empty()) throw InvalidArgument("--prompt is empty and the model has no BOS token: give a prompt of at least one character");
  if (static_cast<int64_t>(ids.size()) >= config.max_positions) {
    throw InvalidArgument(concat("--prompt has ", ids.size(), " tokens; the model takes fewer than ", config.max_positions,
                                 " (max_position_embeddings); shorten the prompt"));
  }

  const at::NoGradGuard no_grad;
  const Decoder decoder = load_decoder(directory, at::kFloat, {0, config.moe ? config.moe->num_experts : 0});
  LocalDispatcher dispatcher;
  KvCache cache;
  CounterRng rng(options.seed, kStreamSampling);
  TextStream text(*tokenizer);
  for (const int32_t id : ids) text.push(id);
  std::cout << options.prompt << std::flush;

  std::vector<int64_t> pending(ids.begin(), ids.end());
  int64_t position = 0;
  for (int64_t step = 0; step < options.max_tokens && position + static_cast<int64_t>(pending.size()) <= config.max_positions; ++step) {
    const auto count = static_cast<int64_t>(pending.size());
    const TokenBatch batch{at::tensor(pending, at::kLong), at::arange(position, position + count, at::kLong), {0, count}};
    const at::Tensor hidden = decoder.forward(batch, dispatcher, &cache).hidden_TD;
    position += count;
    const int64_t next = choose(decoder.logits(hidden.slice(0, count - 1, count)).select(0, 0), options.temperature, rng);
    if (std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), next) != config.eos_token_ids.end()) break;
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
  command->add_option("--prompt", options->prompt, "Text to continue; the model's BOS is put first")->required();
  command->add_option("--max-tokens", options->max_tokens, "Tokens to add at most")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--temperature", options->temperature, "0: the most likely token each time; else softmax(logits / T)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", options->seed, "Seed of the draws when the temperature is above 0")->capture_default_str();
  command->footer(
      "Prints the prompt and its continuation as it comes; stops at the model's EOS.\n\n"
      "Examples:\n"
      "  moe-worker generate examples/base-7m --prompt 'The old man'\n"
      "  moe-worker generate runs/quickstart/stage2/output-t0001 --prompt 'Once upon a time' --temperature 0.8 --seed 1");
  return {command, [options](Communicator&) { return generate(*options); }};
}

}  // namespace moe
