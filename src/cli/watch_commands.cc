// watch: events as they happen. wait: until a pipeline or a job has got somewhere.
#include <algorithm>
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "common/option_checks.h"
#include "pipeline/problem.h"

namespace moe {
namespace {

struct WatchOptions {
  std::string id;
  int64_t after = 0;
  bool no_follow = false;
};

struct WaitOptions {
  std::string id;
  std::string wanted = "succeeded";
  std::optional<double> timeout;
};

ExitStatus run_watch(const WatchOptions& options, Shell& shell) {
  v1::WatchRequest request;
  request.set_id(options.id);
  request.set_after_revision(options.after);
  shell.begin_to_follow("what was watched goes on");
  while (true) {
    const v1::WatchResponse answer = shell.client.watch(request);
    for (const v1::Event& event : answer.events()) {
      if (shell.json) {
        shell.print_json_line(event);
      } else {
        shell.print(event_text(event) + "\n");
      }
    }
    shell.out.flush();
    request.set_after_revision(answer.revision());
    if (!answer.events().empty()) continue;
    if (answer.has_ended()) {
      shell.note(concat(options.id, " ", answer.state()));
      return status_of_end(answer.state());
    }
    if (options.no_follow) return ExitStatus::kDone;
    request.set_wait_seconds(kPollSeconds);
  }
}

ExitStatus run_wait(const WaitOptions& options, Shell& shell) {
  const std::vector<std::string> known{"succeeded", "failed", "canceled", "ended",    "held",    "paused",
                                       "running",   "queued", "blocked",  "assigned", "stopping"};
  if (std::find(known.begin(), known.end(), options.wanted) == known.end()) {
    throw CommandError(ExitStatus::kUsage,
                       concat("--for ", options.wanted, ": no such state", suggestion(options.wanted, known)));
  }
  FollowOptions follow_options;
  follow_options.wanted = upper_case(options.wanted);
  follow_options.timeout_seconds = options.timeout;
  if (options.timeout) {
    shell.outage = std::min(shell.outage, std::chrono::milliseconds(static_cast<int64_t>(*options.timeout * 1000)));
  }
  shell.begin_to_follow(options.id + " goes on");
  return follow(shell, options.id, follow_options);
}

}  // namespace

Subcommand add_watch_command(CLI::App& app) {
  auto options = std::make_shared<WatchOptions>();
  CLI::App* command = app.add_subcommand("watch", "Print events as they happen, from the beginning");
  command->add_option("ID", options->id, "Pipeline or job; everything if left out");
  command->add_option("--after", options->after, "Only events after this revision (`-o json` shows revisions)")
      ->check(nonnegative_number());
  command->add_flag("--no-follow", options->no_follow, "End with the last event there is");
  command->footer(
      "Ends with the pipeline or job: exit code 0 if it SUCCEEDED, else 1. With -o json, one event a line.\n\n"
      "Examples:\n"
      "  moectl watch quickstart-7f3k2m9a\n"
      "  moectl watch quickstart-7f3k2m9a-stage1 -o json\n"
      "  moectl watch --no-follow --after 1200");
  return {command, [options](Shell& shell) { return run_watch(*options, shell); }};
}

Subcommand add_wait_command(CLI::App& app) {
  auto options = std::make_shared<WaitOptions>();
  CLI::App* command = app.add_subcommand("wait", "Wait until a pipeline or job has reached a state");
  command->add_option("ID", options->id, "Pipeline or job")->required();
  command->add_option("--timeout", options->timeout, "Longest wait in seconds (default: for ever)")
      ->check(nonnegative_number());
  command
      ->add_option("--for", options->wanted,
                   "succeeded, failed, canceled, ended (any of these three), held, paused, running, queued, ...")
      ->capture_default_str();
  command->footer(
      "Exit code 0 when the state is reached; 1 when it ended otherwise or a gate holds it; 6 when the time is "
      "over.\n\n"
      "Examples:\n"
      "  moectl wait quickstart-7f3k2m9a\n"
      "  moectl wait quickstart-7f3k2m9a-stage1 --timeout 600\n"
      "  moectl wait quickstart-7f3k2m9a --for held && moectl describe quickstart-7f3k2m9a");
  return {command, [options](Shell& shell) { return run_wait(*options, shell); }};
}

}  // namespace moe
