// health and version: the coordinator itself.
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands.h"
#include "cli/format.h"
#include "common/version.h"

namespace moe {
namespace {

ExitStatus run_health(Shell& shell) {
  const v1::ServerInfo info = shell.client.server_info();
  if (shell.json) {
    shell.print_json(info);
    return ExitStatus::kDone;
  }
  shell.print(concat("healthy    ", shell.client.address(), ", version ", info.version(), ", up for ",
                     age_text(info.started()), "\n"));
  shell.print(concat("page       ", info.http_url(), "\n"));
  shell.print(concat("data root  ", info.data_root(), "\n"));
  shell.print(concat("gangs      ", info.gangs(), "\n"));
  shell.print(concat("jobs       ", info.running_jobs(), " running, ", info.queued_jobs(), " queued\n"));
  if (info.gangs() == 0 && info.queued_jobs() > 0) {
    shell.note("jobs wait and no gang is registered; start one with deploy/gang.sh");
  }
  return ExitStatus::kDone;
}

ExitStatus run_version(Shell& shell) {
  nlohmann::json versions{{"client", kVersion}};
  std::string text = concat("moectl       ", kVersion, "\n");
  try {
    const v1::ServerInfo info = shell.client.server_info();
    versions["coordinator"] = info.version();
    versions["schema"] = info.schema_version();
    text += concat("coordinator  ", info.version(), ", database schema ", info.schema_version(), "\n");
  } catch (const CommandError& error) {
    // Its own version is what was asked for; the coordinator's is a bonus.
    shell.note(error.what());
  }
  shell.print(shell.json ? versions.dump() + "\n" : text);
  return ExitStatus::kDone;
}

}  // namespace

Subcommand add_health_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("health", "Whether the coordinator answers, and what it holds");
  command->footer(
      "Exit code 0 when it answers, 1 when it answers with an error, 5 when nothing answers.\n\n"
      "Examples:\n  moectl health\n  until moectl health; do sleep 1; done");
  return {command, run_health};
}

Subcommand add_version_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("version", "Version of moectl and, if it answers, of the coordinator");
  command->footer("Examples:\n  moectl version\n  moectl version -o json");
  return {command, run_version};
}

}  // namespace moe
