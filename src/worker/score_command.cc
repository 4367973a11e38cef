#include <ATen/Parallel.h>

#include <CLI/App.hpp>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "data/documents.h"
#include "data/tokenizer/tokenizer.h"
#include "model/decoder.h"
#include "worker/commands.h"

namespace moe {
namespace {

struct ScoreOptions {
  std::string model;
  std::string text_file;
  std::string ids_file;
  std::string output;
  bool parses_specials = false;
};

/// Natural log of p(ids[i] | ids[0..i)) for i >= 1, in fp32.
std::vector<float> log_probabilities(const Decoder& decoder, const std::vector<int32_t>& ids) {
  const auto length = static_cast<int64_t>(ids.size());
  if (length < 2) return {};
  const at::Tensor all = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong);
  LocalDispatcher dispatcher;
  const TokenBatch batch{all.slice(0, 0, length - 1), at::arange(length - 1, at::kLong), {0, length - 1}};
  const at::Tensor hidden = decoder.forward(batch, dispatcher).hidden_TD;
  const at::Tensor losses = decoder.token_losses(hidden, all.slice(0, 1, length)).neg().to(at::kFloat).contiguous();
  const float* values = losses.const_data_ptr<float>();
  return {values, values + losses.numel()};
}

void check_length(const ModelConfig& config, const std::vector<int32_t>& ids, const std::string& where) {
  if (static_cast<int64_t>(ids.size()) - 1 > config.max_positions) {
    throw InvalidArgument(concat(where, ": ", ids.size(), " tokens are more than the model's max_position_embeddings ",
                                 config.max_positions, " and one; split the document"));
  }
}

ExitCode score(const ScoreOptions& options) {
  const ModelDirectory directory(options.model);
  const std::string& file = options.text_file.empty() ? options.ids_file : options.text_file;
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!options.text_file.empty()) tokenizer = Tokenizer::from_directory(options.model);
  const DocumentOptions reading{
      .special_tokens = options.parses_specials ? SpecialTokens::kParse : SpecialTokens::kAsText,
      .vocab_size = directory.config().vocab_size};
  const std::vector<IdLine> documents = options.text_file.empty()
                                            ? read_id_documents(file, directory.config().vocab_size)
                                            : read_text_documents(file, *tokenizer, reading);
  for (const IdLine& line : documents) check_length(directory.config(), line.ids, concat(file, ":", line.number));

  const at::NoGradGuard no_grad;
  const Decoder decoder = load_decoder(directory, at::kFloat, all_experts(directory.config()));
  std::optional<AtomicFile> output;
  if (!options.output.empty()) output.emplace(options.output);
  for (const IdLine& document : documents) {
    const std::vector<int32_t>& ids = document.ids;
    const std::string line = nlohmann::json{{"ids", ids}, {"logprobs", log_probabilities(decoder, ids)}}.dump() + "\n";
    if (output) {
      output->write(line);
    } else {
      std::cout << line << std::flush;
    }
  }
  if (output) output->commit();
  return ExitCode::kDone;
}

}  // namespace

Subcommand add_score_command(CLI::App& app) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand("score", "Log-probabilities of documents under a model, dense or MoE");
  command->add_option("MODEL", options->model, "Model directory (Hugging Face layout or native)")->required();
  CLI::Option* text = command->add_option("--text", options->text_file,
                                          "JSONL file of {\"text\"}; what the tokenizer adds (BOS) is added");
  CLI::Option* ids = command->add_option("--ids", options->ids_file, "JSONL file of {\"ids\"}, scored as they stand");
  text->excludes(ids);
  command->add_flag("--parse-special-tokens", options->parses_specials, "Text such as <|im_end|> is the special token")
      ->excludes(ids);
  command->add_option("--out", options->output, "Write here (default: standard output)");
  command->footer(
      "One JSON line per document: `ids`, and `logprobs`, the natural logarithm of the probability of each id after "
      "the\n"
      "first given those before it (fp32).\n\n"
      "Examples:\n"
      "  moe-worker score examples/base-7m --text examples/data/books.valid.jsonl --out scores.jsonl\n"
      "  echo '{\"ids\": [1, 403, 12, 7]}' > ids.jsonl && moe-worker score examples/base-7m --ids ids.jsonl");
  return {command, [options](Communicator&) {
            if (options->text_file.empty() == options->ids_file.empty()) {
              throw UsageError("score needs one of --text FILE.jsonl and --ids FILE.jsonl");
            }
            return score(*options);
          }};
}

}  // namespace moe
