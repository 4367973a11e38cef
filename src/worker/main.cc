#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "comm/agreement.h"
#include "comm/mpi_session.h"
#include "common/command_line.h"
#include "common/error.h"
#include "common/log.h"
#include "common/standard_output.h"
#include "worker/commands.h"
#include "worker/stop_signal.h"

namespace moe {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  moe-worker run configs/base-7m_independent-random_cpu.yaml --out runs/quickstart\n"
    "  mpirun -n 2 moe-worker run pipeline.yaml        (deploy/gang.sh holds a good launch line)\n"
    "  mpirun -n 2 moe-worker --coordinator 127.0.0.1:7070 --data-root /shared/moe\n"
    "  moe-worker inspect examples/base-7m\n"
    "  moe-worker export runs/mine/stage2/output-t0001 -o runs/mine/mixtral\n\n"
    "Exit codes: 0 done; 1 a gate failed or holds; 64 usage; 65 bad config or data; 69 no coordinator; 70 internal "
    "error;\n"
    "71 hardware; 74 storage; 75 released after a checkpoint; 76 another gang has the job; 86 a rank hung; 87 "
    "diverged;\n"
    "88 no readable checkpoint.";

/// How long another rank waits before it reports an error that rank 0 may have met too: the first report ends the gang.
constexpr int kReportDelaySeconds = 2;

/// The command line, last word first as CLI11 wants it. Without a command it is `serve`.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool has_command = !words.empty() && (words[0][0] != '-' || words[0] == "--help" || words[0] == "-h");
  if (!has_command) words.insert(words.begin(), "serve");
  return {words.rbegin(), words.rend()};
}

ExitCode report_usage(CLI::App& app, const CLI::ParseError& error, int rank) {
  if (rank != 0) return error.get_exit_code() == 0 ? ExitCode::kDone : ExitCode::kUsage;
  return app.exit(error, std::cout, std::cerr) == 0 ? ExitCode::kDone : ExitCode::kUsage;
}

/// An error that all ranks know of is printed by rank 0 and every rank leaves in order; another one ends the gang at
/// once, since its peers may be waiting in a collective.
ExitCode report_error(const std::exception& error, MpiSession& session, int rank) {
  const ExitCode code = exit_code_for(error);
  const bool agreed = dynamic_cast<const AgreedError*>(&error) != nullptr || session.world_size() == 1;
  if (!agreed && rank != 0) ::sleep(kReportDelaySeconds);
  if (!agreed || rank == 0) {
    std::cerr << "moe-worker: " << (agreed || session.world_size() == 1 ? "" : "rank " + std::to_string(rank) + ": ")
              << message_of(error) << std::endl;
  }
  if (!agreed) session.abort(static_cast<int>(code));
  return code;
}

ExitCode run(int argc, char** argv) {
  install_stop_signal();
  MpiSession session(argc, argv);
  const int rank = session.rank();
  set_log_rank(rank);

  CLI::App app("moe-worker: turns a dense LLaMA-family checkpoint into a mixture of experts and post-trains it",
               "moe-worker");
  app.footer(kFooter);
  app.require_subcommand(1);
  const std::vector<Subcommand> commands{add_serve_command(app),   add_run_command(app),      add_score_command(app),
                                         add_inspect_command(app), add_generate_command(app), add_export_command(app),
                                         add_logits_command(app),  add_methods_command(app)};
  try {
    app.parse(arguments(argc, argv));
  } catch (const CLI::ParseError& error) {
    return report_usage(app, error, rank);
  }
  try {
    for (const Subcommand& command : commands) {
      if (!command.app->parsed()) continue;
      const double seconds = command.collective_timeout
                                 ? *command.collective_timeout
                                 : std::chrono::duration<double>(kDefaultCollectiveTimeout).count();
      const std::unique_ptr<Communicator> world = session.make_world(to_milliseconds(seconds));
      if (!command.uses_all_ranks && world->size() > 1) {
        throw_agreed<UsageError>(concat("`", command.app->get_name(), "` runs in one process; mpirun started ",
                                        world->size(), ": call it without mpirun"));
      }
      return command.run(*world);
    }
  } catch (const std::exception& error) {
    return report_error(error, session, rank);
  }
  return ExitCode::kInternal;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::StandardOutput output;
  try {
    moe::require_utf8_arguments(argc, argv);
    const moe::ExitCode code = moe::run(argc, argv);
    // That storage failed, which this output may be, is told already.
    if (code != moe::ExitCode::kStorage) output.finish();
    return static_cast<int>(code);
  } catch (const std::exception& error) {
    std::cerr << "moe-worker: " << moe::message_of(error) << std::endl;
    return static_cast<int>(moe::exit_code_for(error));
  }
}
