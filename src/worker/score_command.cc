#include <CLI/App.hpp>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "data/documents.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/scorer.h"
#include "runtime/loaded_model.h"
#include "worker/commands.h"
#include "worker/model_options.h"

namespace moe {
namespace {

struct ScoreOptions {
  std::string model;
  std::string text_file;
  std::string ids_file;
  std::string output;
  bool parses_specials = false;
  int64_t top_k = 0;
};

ExitCode score(const ScoreOptions& options) {
  const bool is_text = !options.text_file.empty();
  using enum TextNeeds::TokenizerFile;
  OpenedModel opened = open_model(options.model, {.tokenizer = is_text ? kRequired : kUnread});
  if (options.top_k > 0) opened.directory.use_top_k(options.top_k);
  const ModelConfig& config = opened.directory.config();
  const std::string& file = is_text ? options.text_file : options.ids_file;
  const DocumentOptions reading{
      .special_tokens = options.parses_specials ? SpecialTokens::kParse : SpecialTokens::kAsText,
      .vocab_size = config.vocab_size};
  const std::vector<IdLine> documents =
      is_text ? read_text_documents(file, *opened.text.tokenizer, reading) : read_id_documents(file, config.vocab_size);
  for (const IdLine& line : documents) check_scored_length(config, line.ids.size(), concat(file, ":", line.number));

  const LoadedModel model = load_model(opened);
  std::optional<AtomicFile> output;
  if (!options.output.empty()) output.emplace(options.output);
  for (const IdLine& document : documents) {
    const std::vector<int32_t>& ids = document.ids;
    const std::string line = nlohmann::json{{"ids", ids}, {"logprobs", log_probabilities(model, ids)}}.dump() + "\n";
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
  add_top_k_option(*command, options->top_k);
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
