#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/interrupts.h"
#include "common/command_line.h"
#include "common/option_checks.h"
#include "common/standard_output.h"
#include "pipeline/problem.h"

namespace moe {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  moectl submit configs/base-7m_independent-random_cpu.yaml --wait\n"
    "  moectl get pipelines\n"
    "  moectl logs quickstart-7f3k2m9a-stage1 -f\n\n"
    "Ids may be shortened to an unambiguous beginning. Data goes to standard output, all else to standard error.\n"
    "Exit codes: 0 done; 1 the operation or the job failed; 2 wrong command line or file; 3 not found; 5 no "
    "coordinator;\n"
    "6 time over; 7 wrong state for it; 130 interrupted (jobs keep running).";

/// No terminal, no width: nothing is shortened for a pipe.
constexpr int kNoWidth = 100000;

struct GlobalOptions {
  std::string coordinator = "127.0.0.1:7070";
  std::string output = "table";
  double outage_seconds = 60;
};

int terminal_width() {
  winsize size{};
  if (isatty(STDOUT_FILENO) == 1 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kNoWidth;
}

bool wants_colors() {
  const char* no_color = std::getenv("NO_COLOR");
  return isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || *no_color == '\0');
}

void add_global_options(CLI::App& app, GlobalOptions& options) {
  app.add_option("--coordinator", options.coordinator, "HOST:PORT of the coordinator")
      ->envname("MOE_COORDINATOR")
      ->capture_default_str();
  app.add_option("-o,--output", options.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app.add_option("--outage", options.outage_seconds, "Seconds that logs, watch, wait and --wait stand its absence")
      ->check(nonnegative_number())
      ->capture_default_str();
}

/// CLI11 only says that a subcommand is required when it finds a word that is none.
std::string unknown_command(const CLI::App& app, const std::vector<Subcommand>& commands) {
  const std::vector<std::string> rest = app.remaining();
  if (!app.get_subcommands().empty() || rest.empty() || rest.front().front() == '-') return "";
  std::vector<std::string> names;
  for (const Subcommand& command : commands) names.push_back(command.app->get_name());
  return concat("moectl: no such command (", rest.front(), ")", suggestion(rest.front(), names));
}

ExitStatus run_command(const std::vector<Subcommand>& commands, const GlobalOptions& options, Interrupts& interrupts) {
  Client client(options.coordinator);
  Shell shell{.client = client,
              .interrupts = interrupts,
              .out = std::cout,
              .err = std::cerr,
              .json = options.output == "json",
              .has_colors = wants_colors(),
              .width = terminal_width(),
              .outage = std::chrono::milliseconds(static_cast<int64_t>(options.outage_seconds * 1000))};
  for (const Subcommand& command : commands) {
    if (command.app->parsed()) return command.run(shell);
  }
  throw Internal("no command ran");
}

ExitStatus run(int argc, char** argv) {
  Interrupts interrupts;
  GlobalOptions options;
  CLI::App app("moectl: submits pipelines to a moe-coordinator and shows what becomes of them", "moectl");
  app.footer(kFooter);
  app.require_subcommand(1);
  // `moectl get jobs -o json`: global options may stand behind the command.
  app.fallthrough();
  add_global_options(app, options);
  const std::vector<Subcommand> commands{
      add_submit_command(app),  add_get_command(app),    add_describe_command(app), add_logs_command(app),
      add_watch_command(app),   add_wait_command(app),   add_metrics_command(app),  add_cancel_command(app),
      add_pause_command(app),   add_resume_command(app), add_retry_command(app),    add_readmit_command(app),
      add_approve_command(app), add_reject_command(app), add_health_command(app),   add_version_command(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (const std::string unknown = unknown_command(app, commands); !unknown.empty()) {
      std::cerr << unknown << std::endl;
      return ExitStatus::kUsage;
    }
    return app.exit(error, std::cout, std::cerr) == 0 ? ExitStatus::kDone : ExitStatus::kUsage;
  }
  try {
    return run_command(commands, options, interrupts);
  } catch (const CommandError& error) {
    std::cerr << "moectl: " << error.what() << std::endl;
    return error.status();
  }
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  // gRPC's own complaints about connections: every error is told by us.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  moe::StandardOutput output;
  const auto tell = [](const char* what, const std::exception& error, moe::ExitStatus status) {
    std::cerr << "moectl: " << what << moe::message_of(error) << std::endl;
    return static_cast<int>(status);
  };
  try {
    moe::require_utf8_arguments(argc, argv);
    const moe::ExitStatus status = moe::run(argc, argv);
    output.finish();
    return static_cast<int>(status);
  } catch (const moe::UsageError& error) {
    return tell("", error, moe::ExitStatus::kUsage);
  } catch (const moe::InvalidArgument& error) {
    return tell("", error, moe::ExitStatus::kUsage);
  } catch (const moe::StorageError& error) {
    return tell("", error, moe::ExitStatus::kFailed);
  } catch (const std::exception& error) {
    return tell("internal error: ", error, moe::ExitStatus::kFailed);
  }
}
