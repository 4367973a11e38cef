#include "report/html_page.h"

#include <utility>

#include "common/error.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr char kStyle[] = R"css(
:root { color-scheme: light dark; --text: #1d2330; --muted: #5b6474; --page: #f5f6f8; --card: #ffffff; --border: #dfe3ea;
  --good: #1a7f37; --bad: #c0262d; --wait: #9a6700; --run: #0b62a8;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73; --series-4: #b0508c; --series-5: #b07800; --series-6: #2f93cf; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --muted: #9aa4b4; --page: #12151b; --card: #1a1f27;
  --border: #303846; --good: #4ac26b; --bad: #ff7b72; --wait: #e3b341; --run: #6cb6ff;
  --series-1: #56b4e9; --series-2: #ff8c42; --series-3: #2ec4a0; --series-4: #e59ac6; --series-5: #f0c14b; --series-6: #9bd3f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 32px 0 12px; }
p { margin: 8px 0; overflow-wrap: anywhere; }
.head { display: flex; flex-wrap: wrap; gap: 8px 12px; align-items: center; }
.muted { color: var(--muted); font-size: .875rem; }
.summary { font-size: 1.1rem; max-width: 68ch; margin: 12px 0 20px; }
.badge { border: 1px solid; border-radius: 999px; padding: 0 10px; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .wait { color: var(--wait); }
.run { color: var(--run); } .idle { color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 12px; }
.tile, .card { background: var(--card); border: 1px solid var(--border); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
div.card > .muted { margin: 10px 12px 2px; } .grid + .card { margin-top: 16px; }
th, td { padding: 7px 12px; text-align: left; vertical-align: top; border-top: 1px solid var(--border); }
thead th { border-top: 0; color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
table:not(.numbers) tbody th { overflow-wrap: anywhere; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.numbers thead th:not(:first-child) { white-space: normal; }
.time { white-space: nowrap; }
td small, th small { display: block; color: var(--muted); font-weight: 400; font-size: .78rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px; align-items: start; }
figure { margin: 0; padding: 12px 12px 10px; max-width: 620px; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; }
dl { margin: 0; padding: 4px 14px 10px; }
dt { color: var(--muted); font-size: .875rem; margin-top: 8px; }
dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .85rem; }
details { padding: 10px 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: .8rem/1.45 ui-monospace, monospace; margin: 10px 0 4px; }
@media (max-width: 480px) { th, td { padding: 7px 6px; } th:first-child { padding-left: 12px; } table { font-size: .8rem; } main { padding: 16px 12px 40px; }
  .tile b { font-size: 1.25rem; } }
)css";

// Text with its second line small.
std::string cell(std::string_view text) {
  const size_t newline = text.find('\n');
  if (newline == std::string_view::npos) return escape_xml(text);
  return concat(escape_xml(text.substr(0, newline)), "<small>", escape_xml(text.substr(newline + 1)), "</small>");
}

}  // namespace

std::string html_page(std::string_view title, std::string_view body_html, const HtmlPageOptions& options) {
  std::string refresh;
  if (options.refresh_seconds > 0) {
    refresh = concat("<meta http-equiv=\"refresh\" content=\"", options.refresh_seconds, "\">\n");
  }
  return concat("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n", refresh,
                // No icon: a browser would ask the server for one otherwise.
                "<link rel=\"icon\" href=\"data:,\">\n<title>", escape_xml(title), "</title>\n<style>", kStyle,
                options.style, "</style>\n</head>\n<body>\n<main>\n", body_html, "</main>\n</body>\n</html>\n");
}

std::string html_table(std::string_view caption, const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows, bool numbers) {
  const std::string label = escape_xml(caption);
  // The text stands outside what scrolls, so that it wraps on a narrow screen.
  std::string html =
      concat("<div class=\"card\">\n<p class=\"muted\">", label,
             "</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"", label, "\">\n<table",
             numbers ? " class=\"numbers\"" : "", " aria-label=\"", label, "\">\n<thead><tr>");
  for (const std::string& title : header) html += concat("<th scope=\"col\">", cell(title), "</th>");
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) {
      html += c == 0 ? concat("<th scope=\"row\">", cell(row[c]), "</th>") : concat("<td>", cell(row[c]), "</td>");
    }
    html += "</tr>\n";
  }
  return html + "</tbody>\n</table>\n</div>\n</div>\n";
}

std::string html_figure(std::string_view title, std::string_view svg_html, std::string_view note) {
  std::string html = concat("<figure class=\"card\">\n<figcaption>", escape_xml(title), "</figcaption>\n", svg_html);
  // A figure has one caption; the note is a paragraph of its own.
  if (!note.empty()) html += concat("<p class=\"muted\">", escape_xml(note), "</p>\n");
  return html + "</figure>\n";
}

std::string html_tile(std::string_view value, std::string_view name) {
  return concat("<div class=\"tile\"><b>", escape_xml(value), "</b><span class=\"muted\">", escape_xml(name),
                "</span></div>\n");
}

std::string_view state_class(std::string_view state) {
  static constexpr std::pair<std::string_view, std::string_view> kClasses[] = {
      {"SUCCEEDED", "good"},  {"SKIPPED", "good"}, {"PASSED", "good"},   {"APPROVED", "good"},
      {"FAILED", "bad"},      {"CANCELED", "bad"}, {"lost", "bad"},      {"HELD", "wait"},
      {"PAUSED", "wait"},     {"WARNED", "wait"},  {"STOPPING", "wait"}, {"unheard", "wait"},
      {"quarantined", "bad"}, {"RUNNING", "run"},  {"ASSIGNED", "run"},  {"busy", "run"}};
  for (const auto& [known, its_class] : kClasses) {
    if (known == state) return its_class;
  }
  return "idle";
}

std::string html_badge(std::string_view state) {
  return concat("<span class=\"badge ", state_class(state), "\">", escape_xml(state), "</span>");
}

}  // namespace moe
