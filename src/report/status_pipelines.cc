#include <algorithm>

#include "common/error.h"
#include "common/utc_time.h"
#include "report/html_page.h"
#include "report/status_sections.h"
#include "report/text.h"

namespace moe {
namespace {

using JobsById = std::map<std::string, const v1::Job*>;

bool is_terminal(const v1::Pipeline& pipeline) {
  return pipeline.phase() == "SUCCEEDED" || pipeline.phase() == "FAILED" || pipeline.phase() == "CANCELED";
}

bool is_terminal(const v1::StageState& stage) {
  return stage.status() == "SUCCEEDED" || stage.status() == "FAILED" || stage.status() == "SKIPPED";
}

const v1::Job* job_of(const v1::StageState& stage, const JobsById& jobs) {
  const auto found = jobs.find(stage.job_id());
  return found == jobs.end() ? nullptr : found->second;
}

std::string code(std::string_view command) {
  return concat("<code>", escape_xml(command), "</code>");
}

// The row of badges; arrows come from the style.
std::string flow(const v1::Pipeline& pipeline, const JobsById& jobs) {
  std::string html = "<ol class=\"flow\">\n";
  for (const v1::StageState& stage : pipeline.stages()) {
    const std::string state = shown_state(stage);
    std::string text = concat(stage.is_gate() ? "gate: " : "", state);
    const v1::Job* job = job_of(stage, jobs);
    if (job != nullptr && is_at_work(*job) && job->progress().target() > 0) {
      text += concat(" ", fixed(share_done(job->progress()) * 100, 0), " %");
    }
    html += concat("<li class=\"", state_class(state), stage.is_gate() ? " gate" : "", "\"><b>",
                   escape_xml(stage.name()), "</b>", escape_xml(text), "</li>\n");
  }
  return html + "</ol>\n";
}

// One line of what a stage or gate has to say.
std::string note(const v1::StageState& stage, const std::string& text_html) {
  return concat("<p class=\"note\"><b class=\"", state_class(shown_state(stage)), "\">", escape_xml(stage.name()),
                "</b> ", text_html, "</p>\n");
}

std::string gate_notes(const v1::Pipeline& pipeline, const v1::StageState& gate) {
  std::string html;
  if (!gate.message().empty()) html += note(gate, escape_xml(gate.message()));
  if (!gate.decided_by().empty()) html += note(gate, concat("decided by ", escape_xml(gate.decided_by())));
  if (gate.status() == "HELD" && !is_terminal(pipeline)) {
    const std::string arguments = concat(pipeline.id(), " --gate ", gate.name());
    html += note(gate, concat("to let it pass: ", code(concat("moectl approve ", arguments)),
                              ", or to end here: ", code(concat("moectl reject ", arguments))));
  }
  return html;
}

std::string stage_notes(const v1::Pipeline& pipeline, const v1::StageState& stage, const JobsById& jobs) {
  // The pipeline's reason repeats what a failed stage said.
  std::string html;
  if (!stage.message().empty() && pipeline.reason().find(stage.message()) == std::string::npos) {
    html += note(stage, escape_xml(stage.message()));
  }
  const v1::Job* job = job_of(stage, jobs);
  if (job == nullptr || is_terminal(pipeline) || is_terminal(stage)) return html;
  if (job->failures() > 0) {
    html += note(stage, concat(job->failures(), job->failures() == 1 ? " attempt" : " attempts",
                               " failed since the last new checkpoint",
                               job->message().empty() ? "" : concat(": ", escape_xml(job->message()))));
  }
  if (job->state() == v1::JOB_STATE_QUEUED && !job->pending_explanation().empty()) {
    html += note(stage, concat("waits: ", escape_xml(job->pending_explanation())));
  }
  return html;
}

std::string pipeline_card(const v1::Pipeline& pipeline, const JobsById& jobs) {
  std::string origin = concat(pipeline.id(), pipeline.user().empty() ? "" : concat(", by ", pipeline.user()));
  if (pipeline.has_created()) origin += concat(", ", utc_text(pipeline.created().seconds()));
  if (pipeline.has_finished()) origin += concat(" – ", utc_text(pipeline.finished().seconds()));
  std::string html = concat("<article class=\"card item\">\n<div class=\"head\"><h3>",
                            escape_xml(pipeline.name().empty() ? pipeline.id() : pipeline.name()), "</h3>",
                            html_badge(pipeline.phase()), "</div>\n<p class=\"muted\">", escape_xml(origin), "</p>\n",
                            flow(pipeline, jobs));
  const bool is_well = pipeline.phase() == "SUCCEEDED" || pipeline.phase() == "HELD";
  if (!pipeline.reason().empty() && !is_well) {
    html += concat("<p class=\"note\">", escape_xml(pipeline.reason()), "</p>\n");
  }
  for (const v1::StageState& stage : pipeline.stages()) {
    html += stage.is_gate() ? gate_notes(pipeline, stage) : stage_notes(pipeline, stage, jobs);
  }
  if (pipeline.phase() == "PAUSED") {
    html += concat("<p class=\"note\">To go on: ", code(concat("moectl resume ", pipeline.id())), "</p>\n");
  }
  const auto has_failed = [](const v1::StageState& stage) { return !stage.is_gate() && stage.status() == "FAILED"; };
  if (pipeline.phase() == "FAILED" && std::any_of(pipeline.stages().begin(), pipeline.stages().end(), has_failed)) {
    html += concat("<p class=\"note\">To try again: ", code(concat("moectl retry ", pipeline.id())), "</p>\n");
  }
  return html + "</article>\n";
}

}  // namespace

std::string shown_state(const v1::StageState& stage) {
  const std::string job_state = state_word(stage.job_state());
  return stage.is_gate() || is_terminal(stage) || job_state.empty() ? stage.status() : job_state;
}

std::string pipelines_section(const StatusPage& page) {
  std::string html = "<section>\n<h2>Pipelines</h2>\n";
  if (page.pipelines.empty()) {
    return concat(html, "<p>No pipeline yet: ", code("moectl submit FILE"), "</p>\n</section>\n");
  }
  JobsById jobs;
  for (const v1::Job& job : page.jobs) jobs[job.id()] = &job;
  size_t living = 0;
  for (const auto& [phase, count] : page.living_pipelines) living += static_cast<size_t>(count);
  const size_t shown = std::min(page.pipelines.size(), kStatusPagePipelines);
  const size_t shown_living = std::min(shown, living);
  if (shown < living + page.ended_pipelines) {
    html += concat("<p class=\"muted\">", shown_living, " of ", living, " that have not ended, ", shown - shown_living,
                   " of ", page.ended_pipelines, " that have; ", code("moectl get pipelines --limit 0"),
                   " lists all.</p>\n");
  }
  for (size_t i = 0; i < shown; ++i) html += pipeline_card(page.pipelines[i], jobs);
  return html + "</section>\n";
}

}  // namespace moe
