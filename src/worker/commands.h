#pragma once

#include <CLI/App.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "common/exit_code.h"

/// The subcommands of moe-worker. Each add_* declares options and help on a subcommand of `app` and returns what runs
/// it once the command line has been parsed; one file per command.
namespace moe {

/// `world` spans the ranks that mpirun started, or this process alone.
using Command = std::function<ExitCode(Communicator& world)>;

struct Subcommand {
  CLI::App* app = nullptr;
  Command run;
  bool uses_all_ranks = false;                           ///< false: refuses to run under an mpirun of several ranks
  std::shared_ptr<double> collective_timeout = nullptr;  ///< seconds; null: the default
};

/// For a command whose ranks work together.
std::shared_ptr<double> add_collective_timeout(CLI::App& command);
inline std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

Subcommand add_run_command(CLI::App& app);
Subcommand add_serve_command(CLI::App& app);
Subcommand add_score_command(CLI::App& app);
Subcommand add_inspect_command(CLI::App& app);
Subcommand add_methods_command(CLI::App& app);
Subcommand add_generate_command(CLI::App& app);
Subcommand add_export_command(CLI::App& app);
Subcommand add_logits_command(CLI::App& app);

}  // namespace moe
