#pragma once

#include <CLI/App.hpp>
#include <functional>

#include "cli/exit_status.h"
#include "cli/shell.h"

/// The subcommands of moectl. Each add_* declares options and help on a subcommand of `app` and returns what runs it
/// once the command line has been parsed; one file per group.
namespace moe {

struct Subcommand {
  CLI::App* app = nullptr;
  /// Throws CommandError.
  std::function<ExitStatus(Shell& shell)> run;
};

Subcommand add_submit_command(CLI::App& app);
Subcommand add_get_command(CLI::App& app);
Subcommand add_describe_command(CLI::App& app);
Subcommand add_logs_command(CLI::App& app);
Subcommand add_watch_command(CLI::App& app);
Subcommand add_wait_command(CLI::App& app);
Subcommand add_metrics_command(CLI::App& app);
Subcommand add_cancel_command(CLI::App& app);
Subcommand add_pause_command(CLI::App& app);
Subcommand add_resume_command(CLI::App& app);
Subcommand add_retry_command(CLI::App& app);
Subcommand add_readmit_command(CLI::App& app);
Subcommand add_approve_command(CLI::App& app);
Subcommand add_reject_command(CLI::App& app);
Subcommand add_health_command(CLI::App& app);
Subcommand add_version_command(CLI::App& app);

}  // namespace moe
