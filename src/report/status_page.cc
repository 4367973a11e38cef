#include "report/status_page.h"

#include <algorithm>
#include <ctime>

#include "common/error.h"
#include "report/html_page.h"
#include "report/status_sections.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr int kRefreshSeconds = 5;

constexpr char kStyle[] = R"css(
h3 { font-size: 1rem; line-height: 1.35; margin: 0; overflow-wrap: anywhere; min-width: 0; }
.item { padding: 12px 14px; margin-bottom: 12px; }
.flow { list-style: none; display: flex; flex-wrap: wrap; gap: 8px 26px; margin: 10px 0 4px; padding: 0 22px 0 0; }
.flow li { position: relative; border: 1px solid; border-radius: 8px; padding: 2px 10px 3px; font-size: .75rem; line-height: 1.35;
  min-width: 0; overflow-wrap: anywhere; }
.flow li.gate { border-style: dashed; border-radius: 14px; }
.flow li b { display: block; color: var(--text); font-size: .875rem; }
.flow li:not(:last-child)::after { content: "\2192"; position: absolute; right: -20px; top: calc(50% - .7em); color: var(--muted);
  font-size: 1rem; line-height: 1.4; }
.note { font-size: .9rem; }
.item .badge { white-space: normal; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .85em; background: var(--page); border: 1px solid var(--border);
  border-radius: 5px; padding: 1px 6px; overflow-wrap: anywhere; }
progress { display: block; width: 100%; height: 12px; margin: 10px 0 4px; accent-color: var(--run); }
.item > .tiles { margin: 10px 0; } .item > .tiles .tile { background: var(--page); padding: 8px 12px; }
.item > .tiles b { font-size: 1.15rem; }
.item figure { border: 0; padding: 0; }
)css";

std::string number_of(const std::map<std::string, int64_t>& counts, const char* name) {
  const auto found = counts.find(name);
  return std::to_string(found == counts.end() ? 0 : found->second);
}

std::string tiles(const StatusPage& page) {
  const auto gangs =
      std::count_if(page.gangs.begin(), page.gangs.end(), [](const v1::Gang& gang) { return gang.state() != "lost"; });
  return concat("<div class=\"tiles\">\n", html_tile(number_of(page.living_pipelines, "RUNNING"), "pipelines running"),
                html_tile(number_of(page.living_pipelines, "HELD"), "held by a gate"),
                html_tile(std::to_string(jobs_at_work(page)), "jobs at work"),
                html_tile(number_of(page.living_jobs, "QUEUED"), "jobs queued"),
                html_tile(std::to_string(gangs), "gangs"), "</div>\n");
}

}  // namespace

std::string state_word(v1::JobState state) {
  constexpr std::string_view kPrefix = "JOB_STATE_";
  if (state == v1::JOB_STATE_UNSPECIFIED || !v1::JobState_IsValid(state)) return "";
  return v1::JobState_Name(state).substr(kPrefix.size());
}

bool is_at_work(const v1::Job& job) {
  return job.state() == v1::JOB_STATE_ASSIGNED || job.state() == v1::JOB_STATE_RUNNING ||
         job.state() == v1::JOB_STATE_STOPPING;
}

int64_t jobs_at_work(const StatusPage& page) {
  int64_t jobs = 0;
  for (const v1::JobState state : {v1::JOB_STATE_ASSIGNED, v1::JOB_STATE_RUNNING, v1::JOB_STATE_STOPPING}) {
    if (const auto found = page.living_jobs.find(state_word(state)); found != page.living_jobs.end())
      jobs += found->second;
  }
  return jobs;
}

double share_done(const v1::Progress& progress) {
  if (progress.target() <= 0) return 0;
  return std::clamp(static_cast<double>(progress.step()) / static_cast<double>(progress.target()), 0.0, 1.0);
}

std::string render_status_page(const StatusPage& page) {
  const std::string body = concat(
      "<header>\n<div class=\"head\"><h1>Coordinator</h1><span class=\"muted\">", escape_xml(page.version),
      "</span></div>\n<p class=\"muted\">As of ", escape_xml(page.now), "; loads itself again every ", kRefreshSeconds,
      " s.</p>\n</header>\n", tiles(page), pipelines_section(page), jobs_section(page), gangs_section(page));
  return html_page("moe coordinator", body, {.refresh_seconds = kRefreshSeconds, .style = kStyle});
}

}  // namespace moe
