#include <CLI/App.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "data/documents.h"
#include "eval/scorer.h"
#include "runtime/loaded_model.h"
#include "worker/commands.h"
#include "worker/model_options.h"

namespace moe {
namespace {

struct LogitsOptions {
  std::string model;
  std::string ids_file;
  std::string output;
  int64_t top_k = 0;
};

void check_lengths(const std::vector<IdLine>& documents, int64_t max_positions, const std::string& file) {
  if (documents.empty()) throw InvalidArgument(file + ": no documents");
  for (const IdLine& line : documents) {
    const size_t length = line.ids.size();
    if (length == 0 || length != documents.front().ids.size()) {
      throw InvalidArgument(
          concat(file, ":", line.number, ": ", length, " ids; all documents must have the same number, at least 1"));
    }
    if (static_cast<int64_t>(length) > max_positions) {
      throw InvalidArgument(concat(file, ":", line.number, ": ", length,
                                   " ids are more than the model's max_position_embeddings ", max_positions));
    }
  }
}

ExitCode write_logits(const LogitsOptions& options) {
  OpenedModel opened = open_model(options.model);
  if (options.top_k > 0) opened.directory.use_top_k(options.top_k);
  const ModelConfig& config = opened.directory.config();
  const std::vector<IdLine> documents = read_id_documents(options.ids_file, config.vocab_size);
  check_lengths(documents, config.max_positions, options.ids_file);
  const auto rows = static_cast<int64_t>(documents.size()), length = static_cast<int64_t>(documents.front().ids.size());
  std::vector<int64_t> all;
  for (const IdLine& line : documents) all.insert(all.end(), line.ids.begin(), line.ids.end());
  const at::Tensor ids = at::tensor(all, at::kLong).view({rows, length});

  const LoadedModel model = load_model(opened);
  at::Tensor logits = at::empty({rows, length, config.vocab_size});
  for (int64_t row = 0; row < rows; ++row) logits.select(0, row).copy_(sequence_logits(model, ids.select(0, row)));
  SafetensorsWriter writer(options.output,
                           {{"input_ids", at::kLong, {rows, length}}, {"logits", at::kFloat, logits.sizes().vec()}});
  writer.write("input_ids", ids);
  writer.write("logits", logits);
  writer.finish();
  std::cout << options.output << ": logits of " << rows << " x " << length << " positions, vocabulary "
            << config.vocab_size << "\n";
  return ExitCode::kDone;
}

}  // namespace

Subcommand add_logits_command(CLI::App& app) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      app.add_subcommand("logits", "Logits of documents of one length, as a safetensors file to compare with");
  command->add_option("MODEL", options->model, "Model directory: Hugging Face layout, native or a stock mixture")
      ->required();
  command->add_option("--ids", options->ids_file, "JSONL file of {\"ids\"}, all of one length")->required();
  command->add_option("--out", options->output, "File to write: input_ids [N, T] int64, logits [N, T, V] float32")
      ->required();
  add_top_k_option(*command, options->top_k);
  command->footer(
      "Examples:\n"
      "  echo '{\"ids\": [1, 403, 12, 7]}' > ids.jsonl\n"
      "  moe-worker logits examples/base-7m --ids ids.jsonl --out logits.safetensors");
  return {command, [options](Communicator&) { return write_logits(*options); }};
}

}  // namespace moe
