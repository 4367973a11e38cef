// logs: an attempt's log by byte offsets, so that following it goes on where it was when the coordinator comes back.
#include <chrono>
#include <memory>
#include <optional>
#include <ostream>
#include <thread>

#include "cli/commands.h"
#include "cli/format.h"
#include "common/option_checks.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPause{500};

struct LogsOptions {
  std::string job;
  bool follow = false;
  int attempt = 0;
  std::optional<int> rank;
};

/// Reads on from where it stands. After the end of an attempt it looks for the next one, unless one was asked for.
class LogReader {
 public:
  LogReader(const LogsOptions& options, Shell& shell) : options_(options), shell_(shell) {
    request_.set_job_id(options.job);
    request_.set_attempt(options.attempt);
    if (options.rank) request_.set_rank(*options.rank);
  }

  ExitStatus run() {
    while (true) {
      const Clock::time_point asked = Clock::now();
      const v1::ReadLogsResponse answer = read();
      if (options_.follow) request_.set_wait_seconds(kPollSeconds);
      if (is_other_attempt(answer)) continue;
      shell_.out << answer.data() << std::flush;
      request_.set_offset(answer.next_offset());
      if (answer.attempt() > 0) request_.set_attempt(answer.attempt());
      if (!answer.data().empty()) continue;
      if (!options_.follow) return end_without_following(answer);
      if (!answer.terminal_state().empty()) return end(answer.terminal_state());
      if (answer.attempt_ended() && !look_for_next(answer.attempt())) return ExitStatus::kDone;
      // An answer without news that came at once: not so fast.
      if (Clock::now() - asked < kPause) std::this_thread::sleep_for(kPause);
    }
  }

 private:
  /// A rank that has not written anything yet has no log: while following, one waits for it.
  v1::ReadLogsResponse read() {
    while (true) {
      try {
        const v1::ReadLogsResponse answer = shell_.client.read_logs(request_);
        is_following_ = options_.follow;
        return answer;
      } catch (const CommandError& error) {
        if (error.status() != ExitStatus::kNotFound || !is_following_ || !options_.rank) throw;
        std::this_thread::sleep_for(kPause);
      }
    }
  }

  /// The newest attempt was asked for, and it is not the one that was read so far: it is read from its beginning.
  bool is_other_attempt(const v1::ReadLogsResponse& answer) {
    if (ended_attempt_ == 0 || answer.attempt() == ended_attempt_) return false;
    shell_.note(concat("attempt ", answer.attempt(), " begins"));
    ended_attempt_ = 0;
    request_.set_attempt(answer.attempt());
    request_.set_offset(0);
    return true;
  }

  bool look_for_next(int attempt) {
    if (options_.attempt > 0) return false;
    if (ended_attempt_ == 0) {
      const v1::Job job = shell_.client.get_job(options_.job);
      shell_.note(concat("attempt ", attempt, " has ended; the job is ", state_text(job.state()),
                         job.message().empty() ? "" : ": ", job.message()));
    }
    ended_attempt_ = attempt;
    request_.set_attempt(0);
    return true;
  }

  ExitStatus end(const std::string& state) {
    shell_.note(concat(options_.job, " ", state));
    return status_of_end(state);
  }

  ExitStatus end_without_following(const v1::ReadLogsResponse& answer) {
    if (answer.attempt() == 0) shell_.note(concat(options_.job, " has not run yet; -f waits for its log"));
    return ExitStatus::kDone;
  }

  const LogsOptions& options_;
  Shell& shell_;
  v1::ReadLogsRequest request_;
  // The attempt whose end was seen while the next is awaited; 0: none.
  int ended_attempt_ = 0;
  // The job is known: what is not found now may still come.
  bool is_following_ = false;
};

ExitStatus run_logs(const LogsOptions& options, Shell& shell) {
  shell.begin_to_follow(options.job + " keeps running");
  ExitStatus status = ExitStatus::kDone;
  with_job_hint(shell.client, options.job, [&] { status = LogReader(options, shell).run(); });
  return status;
}

}  // namespace

Subcommand add_logs_command(CLI::App& app) {
  auto options = std::make_shared<LogsOptions>();
  CLI::App* command = app.add_subcommand("logs", "Print the log of a job");
  command->add_option("JOB", options->job, "Job")->required();
  command->add_flag("-f,--follow", options->follow, "Go on until the job has ended");
  command->add_option("--attempt", options->attempt, "Of this attempt (default: the newest)")->check(positive_number());
  command
      ->add_option("--rank", options->rank, "Of this rank (default: the leader's lines and the warnings of all ranks)")
      ->check(nonnegative_number());
  command->footer(
      "With -f the exit code is the job's: 0 if it SUCCEEDED, else 1. When the coordinator goes away, it is tried\n"
      "again for --outage seconds, and the log goes on where it was; exit code 5 if it stays away.\n\n"
      "Examples:\n"
      "  moectl logs quickstart-7f3k2m9a-stage1 -f\n"
      "  moectl logs quickstart-7f3k2m9a-stage1 --attempt 1 --rank 1");
  return {command, [options](Shell& shell) { return run_logs(*options, shell); }};
}

}  // namespace moe
