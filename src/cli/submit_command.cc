// submit: a pipeline file becomes a pipeline, or with --dry-run a list of all that is wrong with it.
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/spec_check.h"
#include "pipeline/defaults.h"
#include "pipeline/warnings.h"

namespace moe {
namespace {

struct SubmitOptions {
  std::string file;
  std::vector<std::string> assignments;
  std::string request_id;
  bool dry_run = false;
  bool wait = false;
};

v1::SubmitRequest request_of(const SubmitOptions& options, const SubmittedFile& file, bool validate_only) {
  v1::SubmitRequest request;
  request.set_request_id(options.request_id.empty() || validate_only ? make_request_id() : options.request_id);
  *request.mutable_spec() = file.loaded.spec;
  request.set_validate_only(validate_only);
  request.set_user(user_name());
  return request;
}

/// Dry run: here and at the coordinator, everything at once.
ExitStatus check_only(const SubmitOptions& options, const SubmittedFile& file, Shell& shell) {
  v1::SubmitResponse answer;
  std::optional<CommandError> unanswered;
  try {
    answer = shell.client.submit(request_of(options, file, true));
  } catch (const CommandError& error) {
    unanswered = error;
  }
  const Problems problems = merged_problems(file, answer);
  if (shell.json) {
    answer.clear_problems();
    for (const Problem& problem : problems) {
      v1::SpecProblem& printed = *answer.add_problems();
      printed.set_path(problem.path);
      printed.set_message(concat(problem.where, ": ", problem.message));
    }
    shell.print_json(answer);
  }
  if (!problems.empty()) shell.err << to_text(problems) << std::endl;
  for (const std::string& warning : answer.warnings()) shell.note("warning: " + warning);
  if (unanswered) {
    for (const std::string& warning : warnings_of(effective_spec(file.loaded.spec))) shell.note("warning: " + warning);
    shell.note(unanswered->what());
    if (unanswered->status() != ExitStatus::kUsage) {
      shell.note(
          "not checked: names of methods, tasks and templates, whether models and data are there, and whether a gang "
          "is large enough");
    }
    return problems.empty() ? unanswered->status() : ExitStatus::kUsage;
  }
  if (!answer.inputs_seen().empty()) shell.note(answer.inputs_seen());
  if (!problems.empty()) return ExitStatus::kUsage;
  if (!shell.json) {
    const int warnings = answer.warnings_size();
    shell.print(warnings == 0 ? "valid\n\n"
                              : concat("valid, with ", warnings, warnings == 1 ? " warning\n\n" : " warnings\n\n"));
    shell.print(plan_text(answer.has_effective() ? answer.effective() : effective_spec(file.loaded.spec), shell.width));
  }
  return ExitStatus::kDone;
}

/// The coordinator refused: asks it for the list of problems, which it can tell by field, to show them by line.
[[noreturn]] void explain_refusal(const SubmitOptions& options, const SubmittedFile& file, Shell& shell,
                                  const CommandError& refusal) {
  Problems problems;
  try {
    problems = merged_problems(file, shell.client.submit(request_of(options, file, true)));
  } catch (const CommandError&) {
    // The refusal itself is what is left to tell.
  }
  if (problems.empty()) throw CommandError(refusal.status(), concat(options.file, ": ", refusal.what()));
  throw CommandError(refusal.status(), to_text(problems));
}

ExitStatus run_submit(const SubmitOptions& options, Shell& shell) {
  const SubmittedFile file = read_submitted_file(options.file, options.assignments);
  if (options.dry_run) return check_only(options, file, shell);
  if (!file.loaded.problems.empty()) throw CommandError(ExitStatus::kUsage, to_text(file.loaded.problems));
  v1::SubmitResponse answer;
  try {
    answer = shell.client.submit(request_of(options, file, false));
  } catch (const CommandError& error) {
    if (error.status() == ExitStatus::kUsage) explain_refusal(options, file, shell, error);
    throw;
  }
  const std::string& id = answer.pipeline_id();
  for (const std::string& warning : answer.warnings()) shell.note("warning: " + warning);
  if (shell.json) {
    shell.print_json(answer);
  } else {
    shell.out << id << std::endl;
  }
  if (options.wait) {
    shell.begin_to_follow(
        concat(id, " keeps running; `moectl wait ", id, "` waits on, `moectl cancel ", id, "` ends it"));
    return follow(shell, id, {.wanted = "SUCCEEDED", .timeout_seconds = std::nullopt, .show_progress = true});
  }
  shell.err << "moectl describe " << id << "      stages and gates\n"
            << "moectl watch " << id << "         events as they happen\n"
            << "moectl get jobs --pipeline " << id << std::endl;
  return ExitStatus::kDone;
}

}  // namespace

Subcommand add_submit_command(CLI::App& app) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* command = app.add_subcommand("submit", "Run a pipeline or job file; prints the id of the pipeline");
  command->add_option("FILE", options->file, "Pipeline or job (YAML; proto/moe/v1/*.proto is its schema)")->required();
  command
      ->add_option("--set", options->assignments,
                   "Change a value of the file: path=value, e.g. stages.stage1.train.steps=50")
      ->take_all()
      ->expected(1);
  CLI::Option* dry_run = command->add_flag(
      "--dry-run", options->dry_run,
      "Check only: all problems at once, or the plan; the coordinator looks whether models and data are there");
  command->add_flag("--wait", options->wait, "Follow it to its end; exit code 0 only if it SUCCEEDED")
      ->excludes(dry_run);
  command->add_option("--request-id", options->request_id,
                      "Submitting again with the same one gives the same pipeline");
  command->footer(
      "Paths in the file are relative to the working directory; gangs must see the same files.\n\n"
      "Examples:\n"
      "  moectl submit configs/base-7m_independent-random_cpu.yaml --wait\n"
      "  moectl submit mine.yaml --dry-run\n"
      "  id=$(moectl submit mine.yaml --set stages.stage1.train.steps=50) && moectl wait \"$id\"");
  return {command, [options](Shell& shell) { return run_submit(*options, shell); }};
}

}  // namespace moe
