// cancel, pause, resume, retry, readmit, approve, reject: each changes what the ID names and prints "ID STATE".
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "cli/commands.h"

namespace moe {
namespace {

struct ControlOptions {
  std::vector<std::string> ids;
  std::string comment;
};

struct GateOptions {
  std::string pipeline;
  std::string gate;
  std::string comment;
};

void print_answer(Shell& shell, const v1::ControlResponse& answer) {
  if (shell.json) {
    shell.print_json_line(answer);
  } else {
    shell.print(concat(answer.id(), " ", answer.state(), "\n"));
  }
  if (!answer.note().empty()) shell.note(concat(answer.id(), ": ", answer.note()));
}

/// Every id is tried; the first failure decides the exit code.
ExitStatus run_control(Control what, const ControlOptions& options, Shell& shell) {
  std::optional<ExitStatus> failed;
  for (const std::string& id : options.ids) {
    v1::ControlRequest request;
    request.set_request_id(make_request_id());
    request.set_id(id);
    request.set_user(user_name());
    request.set_comment(options.comment);
    try {
      print_answer(shell, shell.client.control(what, request));
    } catch (const CommandError& error) {
      shell.note(concat(id, ": ", error.what()));
      if (!failed) failed = error.status();
      if (error.status() == ExitStatus::kUnavailable) break;
    }
  }
  return failed.value_or(ExitStatus::kDone);
}

Subcommand add_control_command(CLI::App& app, Control what, const char* name, const char* help, const char* footer,
                               const char* ids = "Pipelines or jobs, or the beginnings of their ids") {
  auto options = std::make_shared<ControlOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("ID", options->ids, ids)->required();
  command->add_option("--comment", options->comment, "Kept in the history");
  command->footer(footer);
  return {command, [options, what](Shell& shell) { return run_control(what, *options, shell); }};
}

ExitStatus run_decision(bool approve, const GateOptions& options, Shell& shell) {
  v1::DecideGateRequest request;
  request.set_request_id(make_request_id());
  request.set_pipeline_id(options.pipeline);
  request.set_gate(options.gate);
  request.set_approve(approve);
  request.set_user(user_name());
  request.set_comment(options.comment);
  print_answer(shell, shell.client.decide_gate(request));
  return ExitStatus::kDone;
}

Subcommand add_decision_command(CLI::App& app, bool approve, const char* name, const char* help, const char* footer) {
  auto options = std::make_shared<GateOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("PIPELINE", options->pipeline, "Pipeline that is HELD")->required();
  command->add_option("--gate", options->gate, "Gate; may be left out when only one holds");
  command->add_option("--comment", options->comment, "Why; kept with the gate and in the history");
  command->footer(footer);
  return {command, [options, approve](Shell& shell) { return run_decision(approve, *options, shell); }};
}

}  // namespace

Subcommand add_cancel_command(CLI::App& app) {
  return add_control_command(app, Control::kCancel, "cancel",
                             "End pipelines or jobs for good; running ones save a checkpoint",
                             "Prints the id and the new state of each: STOPPING until the gang has let go, then "
                             "CANCELED. Canceling again is no\n"
                             "error.\n\n"
                             "Examples:\n"
                             "  moectl cancel quickstart-7f3k2m9a\n"
                             "  moectl cancel quickstart-7f3k2m9a --comment 'wrong learning rate'");
}

Subcommand add_pause_command(CLI::App& app) {
  return add_control_command(
      app, Control::kPause, "pause", "Stop pipelines or jobs after a checkpoint; `resume` goes on",
      "Examples:\n  moectl pause quickstart-7f3k2m9a\n  moectl pause quickstart-7f3k2m9a-stage1");
}

Subcommand add_resume_command(CLI::App& app) {
  return add_control_command(app, Control::kResume, "resume",
                             "Let paused pipelines or jobs go on at their last checkpoint",
                             "Examples:\n  moectl resume quickstart-7f3k2m9a");
}

Subcommand add_retry_command(CLI::App& app) {
  return add_control_command(
      app, Control::kRetry, "retry", "Give failed jobs a new budget of attempts",
      "A training job goes on at its last checkpoint. Of a pipeline, every failed job is tried again.\n\n"
      "Examples:\n  moectl retry quickstart-7f3k2m9a-stage2 --comment 'disk was full'");
}

Subcommand add_readmit_command(CLI::App& app) {
  return add_control_command(
      app, Control::kReadmit, "readmit", "Give a quarantined gang that was mended jobs again",
      "`moectl get gangs` lists them, with what they failed. Two more jobs that it fails and others can run put it "
      "back.\n\n"
      "Examples:\n  moectl readmit 3f2a9c --comment 'share is mounted again'",
      "Gangs, or the beginnings of their ids");
}

Subcommand add_approve_command(CLI::App& app) {
  return add_decision_command(
      app, true, "approve", "Let a gate that holds a pipeline pass",
      "Examples:\n"
      "  moectl approve quickstart-7f3k2m9a\n"
      "  moectl approve quickstart-7f3k2m9a --gate recovered --comment 'good enough for a demo'");
}

Subcommand add_reject_command(CLI::App& app) {
  return add_decision_command(
      app, false, "reject", "Let a gate that holds a pipeline fail it",
      "Examples:\n  moectl reject quickstart-7f3k2m9a --gate recovered --comment 'train longer'");
}

}  // namespace moe
