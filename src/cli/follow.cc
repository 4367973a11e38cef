#include "cli/follow.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ostream>
#include <utility>

#include "cli/format.h"
#include "cli/progress_line.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

/// Longest poll; with a progress line to draw, the pace of that.
constexpr int kProgressSeconds = 2;
/// So many at once are no news but what came before.
constexpr int kHistoryEvents = 100;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void show_job(const v1::Job& job, const std::string& name, ProgressLine& line) {
  const v1::Progress& progress = job.progress();
  if (job.state() == v1::JOB_STATE_QUEUED || job.state() == v1::JOB_STATE_BLOCKED) {
    line.show(name,
              concat(state_text(job.state()), job.pending_explanation().empty() ? "" : ": ", job.pending_explanation()),
              0);
  } else if (const std::string text = progress_text(progress); !text.empty()) {
    line.show(name, text, progress.target() > 0 ? 10 * progress.step() / progress.target() : 0);
  }
}

/// The stage that works, or the first that waits for a gang.
void show_progress(Client& client, const std::string& id, ProgressLine& line) {
  const Target target = find_target(client, id);
  if (const v1::Job* job = std::get_if<v1::Job>(&target)) return show_job(*job, job->id(), line);
  const v1::Pipeline& pipeline = std::get<v1::Pipeline>(target);
  const v1::StageState* shown = nullptr;
  for (const v1::StageState& stage : pipeline.stages()) {
    const bool works = stage.job_state() == v1::JOB_STATE_RUNNING || stage.job_state() == v1::JOB_STATE_STOPPING;
    if (works || (shown == nullptr && stage.job_state() == v1::JOB_STATE_QUEUED)) shown = &stage;
    if (works) break;
  }
  if (shown != nullptr) show_job(client.get_job(shown->job_id()), shown->name(), line);
}

/// Tells how it ended; the exit code for it.
ExitStatus report_end(Shell& shell, const std::string& id, const std::string& state, const FollowOptions& options,
                      double seconds) {
  const Target target = find_target(shell.client, id);
  const std::string reason = reason_of(target);
  const bool is_wanted = state == options.wanted || options.wanted == "ENDED";
  if (!is_wanted || options.show_progress || state != "SUCCEEDED") {
    shell.note(concat(id, " ", state, options.show_progress ? concat(" after ", std::llround(seconds), " s") : "",
                      reason.empty() ? "" : ": ", reason));
  }
  return is_wanted ? ExitStatus::kDone : ExitStatus::kFailed;
}

}  // namespace

std::string event_text(const v1::Event& event) {
  std::string who = event.job_id().empty() ? event.pipeline_id() : event.job_id();
  return concat(clock_text(event.time()), "  ", who, "  ", event.type(), event.message().empty() ? "" : "  ",
                event.message());
}

std::string approval_hint(const v1::Pipeline& pipeline) {
  std::string text;
  const std::string& phase = pipeline.phase();
  if (phase == "SUCCEEDED" || phase == "FAILED" || phase == "CANCELED")
    return text;  // there is nothing to decide any more
  for (const v1::StageState& stage : pipeline.stages()) {
    if (!stage.is_gate() || stage.status() != "HELD") continue;
    const std::string call = concat(" ", pipeline.id(), " --gate ", stage.name());
    text += concat(text.empty() ? "" : "\n", "gate ", stage.name(), " holds it: ", stage.message(),
                   "\n  moectl approve", call, "      lets it pass\n  moectl reject", call, "       ends the pipeline");
  }
  return text;
}

std::string reason_of(const Target& target) {
  if (const v1::Job* job = std::get_if<v1::Job>(&target)) return job->message();
  const v1::Pipeline& pipeline = std::get<v1::Pipeline>(target);
  std::string text = pipeline.reason();
  for (const v1::StageState& stage : pipeline.stages()) {
    if (stage.status() != "FAILED" || stage.message().empty() || text.find(stage.message()) != std::string::npos)
      continue;
    text += concat(text.empty() ? "" : "; ", stage.name(), ": ", stage.message());
  }
  return text;
}

ExitStatus follow(Shell& shell, const std::string& id, const FollowOptions& options) {
  const Clock::time_point start = Clock::now();
  ProgressLine line(shell.err, options.show_progress && isatty(STDERR_FILENO) == 1);
  v1::WatchRequest request;
  request.set_id(id);
  while (true) {
    double left = options.timeout_seconds ? *options.timeout_seconds - seconds_since(start) : kPollSeconds;
    left = std::clamp<double>(left, 0, options.show_progress ? kProgressSeconds : kPollSeconds);
    // The state is wanted at once the first time, after that when something happens.
    request.set_wait_seconds(request.after_revision() == 0 ? 0 : static_cast<int>(std::ceil(left)));
    const v1::WatchResponse answer = shell.client.watch(request);
    if (options.show_progress) {
      for (const v1::Event& event : answer.events()) line.message(event_text(event));
    }
    const bool is_caught_up = answer.events().empty() || answer.revision() == request.after_revision();
    request.set_after_revision(std::max<int64_t>(answer.revision(), 1));
    const std::string& state = answer.state();
    if (state == options.wanted || answer.has_ended()) {
      if (options.show_progress && !is_caught_up) continue;
      line.end();
      return report_end(shell, id, state, options, seconds_since(start));
    }
    if (state == "HELD") {
      const Target target = find_target(shell.client, id);
      if (const v1::Pipeline* pipeline = std::get_if<v1::Pipeline>(&target)) {
        shell.note(concat(pipeline->id(), " is HELD and waits for a person\n", approval_hint(*pipeline)));
        return ExitStatus::kFailed;
      }
    }
    if (options.timeout_seconds && seconds_since(start) >= *options.timeout_seconds) {
      shell.note(
          concat(id, " is ", state, " after ", *options.timeout_seconds, " s, not ", options.wanted, "; it goes on"));
      return ExitStatus::kTimeout;
    }
    // Not between the pages of a long history.
    if (options.show_progress && answer.events_size() < kHistoryEvents) show_progress(shell.client, id, line);
  }
}

}  // namespace moe
