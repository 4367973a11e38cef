// get: pipelines, jobs, gangs and artifacts as tables, page by page up to --limit.
#include <algorithm>
#include <memory>
#include <ostream>
#include <set>
#include <vector>

#include "cli/commands.h"
#include "cli/elastic_table.h"
#include "cli/format.h"
#include "common/option_checks.h"
#include "pipeline/problem.h"

namespace moe {
namespace {

using Align = TextTable::Align;

struct GetOptions {
  std::string kind;
  std::string pipeline;
  std::vector<std::string> states;
  int limit = 100;
};

constexpr int kPage = 500;

std::vector<std::string> states_of(const std::string& kind) {
  if (kind == "pipelines") return {"RUNNING", "HELD", "PAUSED", "SUCCEEDED", "FAILED", "CANCELED"};
  if (kind == "gangs") return {"IDLE", "BUSY", "UNHEARD", "LOST", "QUARANTINED"};
  std::vector<std::string> names;
  for (int state = v1::JobState_MIN + 1; state <= v1::JobState_MAX; ++state) {
    names.push_back(state_text(static_cast<v1::JobState>(state)));
  }
  return names;
}

std::set<std::string> checked_states(const GetOptions& options) {
  std::set<std::string> states;
  if (!options.states.empty() && options.kind == "artifacts") {
    throw CommandError(ExitStatus::kUsage, "--state: artifacts have no state");
  }
  const std::vector<std::string> known = states_of(options.kind);
  for (const std::string& written : options.states) {
    const std::string state = upper_case(written);
    if (std::find(known.begin(), known.end(), state) == known.end()) {
      throw CommandError(ExitStatus::kUsage, concat("--state ", written, ": ", options.kind, " have no such state",
                                                    suggestion(state, known)));
    }
    states.insert(state);
  }
  return states;
}

/// Asks for pages until the limit (0: all) is reached. `list` calls the coordinator, `items` is the repeated field.
template <typename Response, typename List, typename Items>
Response all_pages(v1::ListRequest request, int limit, Shell& shell, const List& list, const Items& items) {
  Response all;
  while (true) {
    const int missing = limit > 0 ? limit - items(all)->size() : kPage;
    request.set_page_size(std::min(kPage, missing));
    Response page = list(request);
    items(all)->MergeFrom(*items(page));
    if (page.next_page_token().empty()) return all;
    if (limit > 0 && items(all)->size() >= limit) {
      shell.note(concat("only the newest ", limit, " are shown; --limit 0 shows all"));
      return all;
    }
    request.set_page_token(page.next_page_token());
  }
}

void show_pipelines(const GetOptions& options, const v1::ListRequest& request, Shell& shell) {
  const auto answer = all_pages<v1::ListPipelinesResponse>(
      request, options.limit, shell, [&](const v1::ListRequest& page) { return shell.client.list_pipelines(page); },
      [](v1::ListPipelinesResponse& response) { return response.mutable_pipelines(); });
  if (shell.json) return shell.print_json(answer);
  ElasticTable table(
      {{"PIPELINE"}, {"PHASE"}, {"DONE", Align::kNumber}, {"NOW"}, {"USER"}, {"AGE", Align::kNumber}, {"REASON"}});
  for (const v1::Pipeline& pipeline : answer.pipelines()) {
    int done = 0;
    std::string now;
    for (const v1::StageState& stage : pipeline.stages()) {
      const std::string& status = stage.status();
      if (status == "RUNNING" || status == "HELD" || status == "FAILED") {
        if (now.empty()) now = stage.name();
      } else if (status != "PENDING" && status != "READY") {
        ++done;
      }
    }
    table.add_row({pipeline.id(), pipeline.phase(), concat(done, "/", pipeline.stages_size()), now, pipeline.user(),
                   age_text(pipeline.created()), pipeline.reason()});
  }
  shell.print(table.render(shell.width));
}

void show_jobs(const GetOptions& options, const v1::ListRequest& request, Shell& shell) {
  const auto answer = all_pages<v1::ListJobsResponse>(
      request, options.limit, shell, [&](const v1::ListRequest& page) { return shell.client.list_jobs(page); },
      [](v1::ListJobsResponse& response) { return response.mutable_jobs(); });
  if (shell.json) return shell.print_json(answer);
  ElasticTable table(
      {{"JOB"}, {"KIND"}, {"STATE"}, {"ATTEMPT", Align::kNumber}, {"PROGRESS"}, {"AGE", Align::kNumber}, {"MESSAGE"}});
  for (const v1::Job& job : answer.jobs()) {
    const std::string& message = job.message().empty() ? job.pending_explanation() : job.message();
    table.add_row({job.id(), job.kind(), state_text(job.state()), std::to_string(job.attempt()),
                   progress_text(job.progress()), age_text(job.created()), message});
  }
  shell.print(table.render(shell.width));
}

void show_gangs(const std::set<std::string>& states, const v1::ListRequest& request, Shell& shell) {
  v1::ListGangsResponse answer = shell.client.list_gangs(request);
  auto& gangs = *answer.mutable_gangs();
  if (!states.empty()) {
    gangs.erase(std::remove_if(gangs.begin(), gangs.end(),
                               [&](const v1::Gang& gang) { return !states.contains(upper_case(gang.state())); }),
                gangs.end());
  }
  if (shell.json) return shell.print_json(answer);
  ElasticTable table({{"GANG"},
                      {"STATE"},
                      {"RANKS", Align::kNumber},
                      {"DEVICE"},
                      {"JOB"},
                      {"HEARD", Align::kNumber},
                      {"VERSION"},
                      {"MESSAGE"}});
  for (const v1::Gang& gang : gangs) {
    table.add_row({gang.id(), gang.state(), std::to_string(gang.ranks_size()), gang.device(), gang.job_id(),
                   concat(age_text(gang.last_heard()), " ago"), gang.version(), gang.message()});
  }
  shell.print(table.render(shell.width));
}

void show_artifacts(const GetOptions& options, const v1::ListRequest& request, Shell& shell) {
  const auto answer = all_pages<v1::ListArtifactsResponse>(
      request, options.limit, shell, [&](const v1::ListRequest& page) { return shell.client.list_artifacts(page); },
      [](v1::ListArtifactsResponse& response) { return response.mutable_artifacts(); });
  if (shell.json) return shell.print_json(answer);
  ElasticTable table({{"ARTIFACT"}, {"KIND"}, {"DIGEST"}, {"AGE", Align::kNumber}, {"MADE OF"}});
  for (const v1::Artifact& artifact : answer.artifacts()) {
    table.add_row({artifact.id(), artifact.kind(), artifact.digest(), age_text(artifact.created()),
                   comma_separated({artifact.parents().begin(), artifact.parents().end()})});
  }
  shell.print(table.render(shell.width));
}

ExitStatus run_get(const GetOptions& options, Shell& shell) {
  const std::set<std::string> states = checked_states(options);
  v1::ListRequest request;
  request.set_pipeline_id(options.pipeline);
  if (options.kind == "gangs") {
    show_gangs(states, request, shell);
    return ExitStatus::kDone;
  }
  for (const std::string& state : states) request.add_states(state);
  if (options.kind == "pipelines") show_pipelines(options, request, shell);
  if (options.kind == "jobs") show_jobs(options, request, shell);
  if (options.kind == "artifacts") show_artifacts(options, request, shell);
  return ExitStatus::kDone;
}

}  // namespace

Subcommand add_get_command(CLI::App& app) {
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = app.add_subcommand("get", "List pipelines, jobs, gangs or artifacts, newest first");
  command->add_option("KIND", options->kind, "pipelines, jobs, gangs or artifacts")
      ->required()
      ->check(CLI::IsMember({"pipelines", "jobs", "gangs", "artifacts"}));
  command->add_option("--pipeline", options->pipeline, "Jobs and artifacts of this pipeline only");
  command->add_option("--state", options->states, "In these states only, for example running,queued")->delimiter(',');
  command->add_option("--limit", options->limit, "At most so many; 0: all")
      ->check(nonnegative_number())
      ->capture_default_str();
  command->footer(
      "Examples:\n"
      "  moectl get pipelines\n"
      "  moectl get jobs --pipeline quickstart-7f3k2m9a\n"
      "  moectl get jobs --state failed -o json\n"
      "  moectl get gangs");
  return {command, [options](Shell& shell) { return run_get(*options, shell); }};
}

}  // namespace moe
