#include <unistd.h>

#include <CLI/App.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "common/error.h"
#include "common/option_checks.h"
#include "common/work_monitor.h"
#include "export/export_formats.h"
#include "export/export_report.h"
#include "export/exporter.h"
#include "pipeline/kinds/kinds.h"
#include "runtime/opened_model.h"
#include "worker/commands.h"

namespace moe {
namespace {

v1::ExportSpec default_export() {
  v1::Stage stage;
  stage.mutable_export_();
  kind_of(stage)->fill(stage);
  return stage.export_();
}

/// What a pipeline leaves out has the same default here.
struct ExportOptions {
  const v1::ExportSpec defaults = default_export();
  std::string model;
  std::string format = defaults.format();
  std::string output;
  std::string dtype = defaults.dtype();
  int64_t max_shard_size = defaults.max_shard_bytes();
  int64_t pad_experts_to = defaults.pad_experts_to();
  bool allow_padding = defaults.allow_padding();
  bool keep_tied = defaults.keep_tied();
};

class PartsOnTerminal final : public WorkMonitor {
 public:
  void unit_done(const WorkProgress& parts) override {
    std::cerr << "\r" << parts.phase << " " << parts.done << "/" << parts.all << (parts.done == parts.all ? "\n" : "")
              << std::flush;
  }
};

ExitCode run_export(const ExportOptions& options, Communicator& world) {
  v1::ExportSpec spec;
  spec.set_input(options.model);
  spec.set_format(options.format);
  spec.set_dtype(options.dtype);
  spec.set_max_shard_bytes(options.max_shard_size);
  spec.set_pad_experts_to(options.pad_experts_to);
  spec.set_allow_padding(options.allow_padding);
  spec.set_keep_tied(options.keep_tied);
  const OpenedModel source = open_model(options.model);
  PartsOnTerminal parts;
  const nlohmann::json report = export_model({.spec = spec,
                                              .source = source.directory,
                                              .output = options.output,
                                              .monitor = ::isatty(STDERR_FILENO) != 0 ? parts : unwatched()},
                                             world);
  std::cout << export_text(report) << "model         " << options.output << "\n";
  return ExitCode::kDone;
}

std::string footer() {
  std::string text =
      "Formats: auto takes, of the stock architectures that hold the model exactly, the one that most clients read.\n";
  for (const std::string& name : export_formats().names()) {
    text += "  " + name + std::string(name.size() < 18 ? 18 - name.size() : 1, ' ') +
            export_formats().at(name).summary + "\n";
  }
  return text +
         "Where none is exact the command says why and ends with 65; nothing is ever written approximately "
         "(docs/export.md).\n\n"
         "Examples:\n"
         "  moe-worker export runs/mine/stage2/output-t0001 -o mixtral\n"
         "  moe-worker export runs/mine/stage2/output-t0001 -o mixtral --dtype float32 --max-shard-size 2GB "
         "--pad-experts-to 256\n"
         "  moe-worker export runs/mine/convert/output-t0001 --format dense -o dense-again --dtype source";
}

}  // namespace

Subcommand add_export_command(CLI::App& app) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command =
      app.add_subcommand("export", "A model directory for transformers, vLLM and llama.cpp, or a dense one again");
  command->add_option("MODEL", options->model, "Model directory: native, or a stock mixture")->required();
  command->add_option("-o,--out", options->output, "Folder to write; must not exist")->required();
  command->add_option("--format", options->format, "Format to write")
      ->capture_default_str()
      ->check(CLI::IsMember(export_format_names()));
  command->add_option("--dtype", options->dtype, "Type of the weights")
      ->capture_default_str()
      ->check(CLI::IsMember({"bfloat16", "float32", "source"}));
  command->add_option("--max-shard-size", options->max_shard_size, "Size of a file at most: bytes, or with kB, MB, GB")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(true))
      ->check(positive_number());
  command->add_option("--pad-experts-to", options->pad_experts_to, "Fill experts with zeros up to a multiple of this")
      ->check(nonnegative_number());
  command->add_flag("--allow-padding", options->allow_padding, "Even where filling more than doubles the experts");
  command->add_flag("--keep-tied", options->keep_tied, "Leave a tied head tied (all but qwen2_moe)");
  command->footer(footer());
  return {command, [options](Communicator& world) { return run_export(*options, world); }};
}

}  // namespace moe
