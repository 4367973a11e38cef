#include "convert/prompt_pass.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "data/tokenizer/tokenizer.h"

namespace moe {
namespace {

/// A text and where it stands.
struct Prompt {
  std::string field;
  std::string text;
};

/// In the order of PromptStates.
std::vector<Prompt> all_prompts(const v1::FfnExpertsSpec& ffn) {
  std::vector<Prompt> prompts;
  for (int expert = 0; expert < ffn.prompts_size(); ++expert) {
    const std::string at = concat("ffn.prompts.", expert, ".");
    for (int i = 0; i < ffn.prompts(expert).positive_size(); ++i)
      prompts.push_back({concat(at, "positive.", i), ffn.prompts(expert).positive(i)});
    for (int i = 0; i < ffn.prompts(expert).negative_size(); ++i)
      prompts.push_back({concat(at, "negative.", i), ffn.prompts(expert).negative(i)});
  }
  return prompts;
}

std::vector<int64_t> tokens_of(const Prompt& prompt, const Tokenizer& tokenizer, const ModelConfig& config) {
  std::vector<int64_t> tokens;
  const Encoding encoding = tokenizer.encode(prompt.text);
  if (encoding.ids.empty()) throw InvalidArgument(concat("convert: ", prompt.field, " has no tokens; give a text"));
  if (const std::optional<int32_t> bos = tokenizer.bos_id()) tokens.push_back(*bos);
  tokens.insert(tokens.end(), encoding.ids.begin(), encoding.ids.end());
  if (static_cast<int64_t>(tokens.size()) > config.max_positions) {
    throw InvalidArgument(concat("convert: ", prompt.field, " has ", tokens.size(), " tokens, and the model sees ",
                                 config.max_positions, "; give a shorter text"));
  }
  for (const int64_t token : tokens) {
    if (token < config.vocab_size) continue;
    throw InvalidArgument(concat("convert: ", prompt.field, " has the token ", token, ", and the model has ",
                                 config.vocab_size, " (`vocab_size` of config.json); leave that token out"));
  }
  return tokens;
}

}  // namespace

PromptPass::PromptPass(const v1::FfnExpertsSpec& ffn, const ModelConfig& config, const ModelText& reading,
                       PromptNeeds needs, const Communicator& world)
    : config_(config), needs_(needs) {
  MOE_CHECK(reading.tokenizer != nullptr, "prompts without a tokenizer");
  const std::vector<Prompt> prompts = all_prompts(ffn);
  const auto count = static_cast<int64_t>(prompts.size());
  const int64_t first = count * world.rank() / world.size(), last = count * (world.rank() + 1) / world.size();
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < count; ++i) {  // all: a bad one is every rank's
    const std::vector<int64_t> of_prompt = tokens_of(prompts[i], *reading.tokenizer, config);
    if (i < first || i >= last) continue;
    tokens.insert(tokens.end(), of_prompt.begin(), of_prompt.end());
    states_.cu_seqlens.push_back(static_cast<int64_t>(tokens.size()));
  }
  tokens_T_ = at::tensor(tokens, at::kLong);
  rope_ = RopeTable(config, at::kFloat).angles(states_.cu_seqlens);
}

void PromptPass::embed(const at::Tensor& embedding_VD) {
  states_.hidden_TD = embedding_VD.index_select(0, tokens_T_).to(at::kFloat);
}

void PromptPass::advance(const Layer& layer) {
  if (!reads_layers()) return;
  states_.hidden_TD = run_layer(layer, states_.hidden_TD, {config_, rope_, states_.cu_seqlens, dispatcher_}).x_TD;
}

}  // namespace moe
