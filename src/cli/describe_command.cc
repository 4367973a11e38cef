// describe: everything about one pipeline or one job.
#include <deque>
#include <memory>
#include <ostream>

#include "cli/commands.h"
#include "cli/describe.h"
#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

constexpr size_t kEvents = 10;

/// The newest ones; the history is read through from its beginning.
std::vector<v1::Event> last_events(Client& client, const std::string& id) {
  std::deque<v1::Event> last;
  v1::WatchRequest request;
  request.set_id(id);
  while (true) {
    const v1::WatchResponse answer = client.watch(request);
    if (answer.events().empty()) return {last.begin(), last.end()};
    for (const v1::Event& event : answer.events()) {
      last.push_back(event);
      if (last.size() > kEvents) last.pop_front();
    }
    request.set_after_revision(answer.revision());
  }
}

ExitStatus run_describe(const std::string& id, Shell& shell) {
  const Target target = find_target(shell.client, id);
  if (const v1::Pipeline* pipeline = std::get_if<v1::Pipeline>(&target)) {
    if (shell.json) {
      shell.print_json(*pipeline);
    } else {
      shell.print(describe_pipeline(*pipeline, last_events(shell.client, pipeline->id()), shell.width));
    }
    return ExitStatus::kDone;
  }
  const v1::Job& job = std::get<v1::Job>(target);
  if (shell.json) {
    shell.print_json(job);
    return ExitStatus::kDone;
  }
  v1::QueryMetricsResponse metrics;
  if (const JobKind* kind = kind_named(job.kind()); kind != nullptr && kind->has_steps) {
    v1::QueryMetricsRequest request;
    request.set_job_id(job.id());
    request.add_names("loss");
    metrics = shell.client.query_metrics(request);
  }
  shell.print(describe_job(job, metrics, last_events(shell.client, job.id()), shell.width));
  return ExitStatus::kDone;
}

}  // namespace

Subcommand add_describe_command(CLI::App& app) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("describe", "Everything about a pipeline or a job");
  command->add_option("ID", *id, "Pipeline or job, or the beginning of its id")->required();
  command->footer(
      "Of a pipeline: its stages and gates. Of a job: why it waits, its attempts and checkpoints, the loss as a line,\n"
      "and how evenly its experts are used.\n\n"
      "Examples:\n"
      "  moectl describe quickstart-7f3k2m9a\n"
      "  moectl describe quickstart-7f3k2m9a-stage1\n"
      "  moectl describe quickstart-7f3k2m9a -o json");
  return {command, [id](Shell& shell) { return run_describe(*id, shell); }};
}

}  // namespace moe
