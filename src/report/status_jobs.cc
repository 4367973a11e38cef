#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/measures.h"
#include "common/utc_time.h"
#include "report/html_page.h"
#include "report/loss_curve.h"
#include "report/status_sections.h"
#include "report/svg_heatmap.h"
#include "report/text.h"

namespace moe {
namespace {

std::string progress_bar(const v1::Job& job) {
  const v1::Progress& progress = job.progress();
  const std::string unit = progress.unit().empty() ? "step" : progress.unit();
  if (progress.target() <= 0) return "<p class=\"muted\">No progress reported yet.</p>\n";
  const std::string where =
      concat(unit, " ", progress.step(), " of ", progress.target(), " (", fixed(share_done(progress) * 100, 0), " %)");
  return concat("<progress max=\"", progress.target(), "\" value=\"",
                std::clamp<int64_t>(progress.step(), 0, progress.target()), "\" aria-label=\"",
                escape_xml(concat("progress of ", job.id())), "\">", escape_xml(where),
                "</progress>\n<p class=\"muted\">", escape_xml(where), "</p>\n");
}

std::string loss_figure(const v1::Job& job, const std::vector<std::pair<int64_t, double>>& loss) {
  std::vector<LossPoint> points;
  for (const auto& [step, value] : loss) points.push_back({step, value, {}});
  return html_figure("Loss", render_loss_curve(concat("Loss by step of ", job.id()), points), "");
}

std::string load_figure(const std::string& title, const v1::Job& job,
                        const google::protobuf::RepeatedPtrField<v1::LayerLoad>& layers) {
  if (layers.empty()) return "";
  LoadHeatmap heatmap{concat(title, " by layer and expert of ", job.id()), {}};
  for (const v1::LayerLoad& layer : layers) heatmap.load.emplace_back(layer.tokens().begin(), layer.tokens().end());
  return html_figure(title, render_load_heatmap(heatmap), "");
}

std::string job_card(const v1::Job& job, const StatusPage& page) {
  const v1::Progress& progress = job.progress();
  const auto loss = page.loss.find(job.id());
  const bool has_loss = loss != page.loss.end() && !loss->second.empty();
  std::string origin = concat(progress.phase().empty() ? job.kind() : progress.phase(), ", attempt ", job.attempt());
  if (!job.gang_id().empty()) origin += concat(", gang ", job.gang_id());
  if (job.has_started()) origin += concat(", since ", utc_text(job.started().seconds()));
  std::string html = concat("<article class=\"card item\">\n<div class=\"head\"><h3>", escape_xml(job.id()), "</h3>",
                            html_badge(state_word(job.state())), "</div>\n<p class=\"muted\">", escape_xml(origin),
                            "</p>\n", progress_bar(job));
  std::string tiles;
  // A loss of 0 was not measured: no training ends there.
  if (progress.loss() != 0) tiles += html_tile(short_number(progress.loss()), concat("loss (", unit_of("loss"), ")"));
  if (progress.tokens_per_second() != 0) {
    const double rate = progress.tokens_per_second();
    const bool is_large = std::isfinite(rate) && rate >= 100;
    tiles += html_tile(is_large ? fixed(rate, 0) : short_number(rate), "tokens/s");
  }
  if (!job.checkpoints().empty()) {
    tiles += html_tile(std::to_string(job.checkpoints().rbegin()->step()), "step of the newest checkpoint");
  }
  if (!tiles.empty()) html += concat("<div class=\"tiles\">\n", tiles, "</div>\n");
  std::string figures = has_loss ? loss_figure(job, loss->second) : "";
  figures += load_figure("Expert load", job, job.expert_load());
  figures += load_figure("Attention expert load", job, job.attention_expert_load());
  if (!figures.empty()) html += concat("<div class=\"grid\">\n", figures, "</div>\n");
  return html + "</article>\n";
}

// "ranks 0-3 on node-a": ranks of one node that follow one another are one piece.
std::vector<std::string> nodes_of(const v1::Gang& gang) {
  std::vector<v1::GangRank> ranks(gang.ranks().begin(), gang.ranks().end());
  std::stable_sort(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.rank() < b.rank(); });
  std::vector<std::string> pieces;
  for (size_t first = 0, last = 0; first < ranks.size(); first = last + 1) {
    last = first;
    while (last + 1 < ranks.size() && ranks[last + 1].node() == ranks[first].node()) ++last;
    const std::string numbers = first == last ? concat("rank ", ranks[first].rank())
                                              : concat("ranks ", ranks[first].rank(), "–", ranks[last].rank());
    pieces.push_back(concat(numbers, " on ", ranks[first].node()));
  }
  return pieces;
}

std::string gang_row(const v1::Gang& gang) {
  std::vector<std::string> details = nodes_of(gang);
  if (!gang.device().empty() || !gang.version().empty()) {
    details.push_back(
        concat(gang.device(), gang.device().empty() || gang.version().empty() ? "" : ", ", gang.version()));
  }
  if (!gang.message().empty()) details.push_back(gang.message());
  std::string html = concat("<tr><th scope=\"row\">", escape_xml(gang.id()));
  for (const std::string& detail : details) html += concat("<small>", escape_xml(detail), "</small>");
  return concat(html, "</th><td>", html_badge(gang.state()), "</td><td>",
                gang.job_id().empty() ? "–" : escape_xml(gang.job_id()), "</td><td>",
                gang.has_last_heard() ? utc_text(gang.last_heard().seconds()) : "–", "</td></tr>\n");
}

}  // namespace

std::string jobs_section(const StatusPage& page) {
  std::string html = "<section>\n<h2>Jobs at work</h2>\n", cards;
  int64_t shown = 0;
  for (const v1::Job& job : page.jobs) {
    if (!is_at_work(job) || shown == static_cast<int64_t>(kStatusPageJobs)) continue;
    ++shown;
    cards += job_card(job, page);
  }
  const int64_t at_work = jobs_at_work(page);
  if (at_work == 0) html += "<p>No gang works on a job now.</p>\n";
  if (at_work > shown) {
    html += concat("<p class=\"muted\">", shown, " of ", at_work,
                   "; <code>moectl get jobs --state assigned,running,stopping --limit 0</code> lists all.</p>\n");
  }
  return concat(html, cards, "</section>\n");
}

std::string gangs_section(const StatusPage& page) {
  std::string html = "<section>\n<h2>Gangs</h2>\n";
  if (page.gangs.empty()) {
    return html +
           "<p>No gang yet; on a machine that sees the data root: <code>bash deploy/gang.sh --ranks 2 -- "
           "build/release/bin/moe-worker serve --coordinator HOST:PORT --data-root FOLDER</code></p>\n</section>\n";
  }
  html +=
      "<div class=\"card scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Gangs\">\n<table>\n<thead><tr>"
      "<th scope=\"col\">gang</th><th scope=\"col\">state</th><th scope=\"col\">runs</th>"
      "<th scope=\"col\">last heard</th></tr></thead>\n<tbody>\n";
  for (const v1::Gang& gang : page.gangs) html += gang_row(gang);
  return html + "</tbody>\n</table>\n</div>\n</section>\n";
}

}  // namespace moe
