#include "report/analysis_page.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "common/error.h"
#include "report/html_page.h"
#include "report/svg_heatmap.h"
#include "report/svg_line_chart.h"
#include "report/text.h"

namespace moe {
namespace {

// Columns from which on a heat map takes the width of two.
constexpr size_t kManyColumns = 16;
// Up to which a line has a dot at each.
constexpr size_t kMostDots = 64;
constexpr char kStyleOfSections[] = ".tiles + .grid { margin-top: 16px; }\n";

const Figure* figure_named(const std::vector<Figure>& figures, const std::string& name) {
  const auto found = std::find_if(figures.begin(), figures.end(), [&](const Figure& f) { return f.name == name; });
  return found == figures.end() ? nullptr : &*found;
}

std::string render_lines(const Figure& figure) {
  LineChart chart;
  chart.label = figure.title;
  chart.x_title = figure.column_title;
  chart.y_title = figure.unit;
  chart.log_y = figure.is_log;
  for (size_t row = 0; row < figure.rows.size(); ++row) {
    ChartSeries series{figure.rows[row], {}, {}, row, false, figure.columns.size() <= kMostDots};
    for (size_t column = 0; column < figure.values[row].size(); ++column) {
      series.x.push_back(std::strtod(figure.columns[column].c_str(), nullptr));
      series.y.push_back(figure.values[row][column]);
    }
    chart.series.push_back(std::move(series));
  }
  return render_line_chart(chart);
}

std::string render_scatter(const Figure& figure) {
  MOE_CHECK(figure.x.size() == figure.values.size(), figure.name);
  LineChart chart{.label = figure.title, .x_title = figure.column_title, .y_title = figure.unit, .series = {}};
  chart.height = 320;
  for (size_t row = 0; row < figure.rows.size(); ++row)
    chart.series.push_back(
        {.name = figure.rows[row], .x = figure.x[row], .y = figure.values[row], .color = row, .is_cloud = true});
  return render_line_chart(chart);
}

std::string section_html(const AnalysisSection& section) {
  std::string html = concat("<h2>", escape_xml(section.title), "</h2>\n<p>", escape_xml(section.summary), "</p>\n");
  if (!section.numbers.empty()) {
    html += "<div class=\"tiles\">\n";
    for (const auto& [name, value] : section.numbers) html += html_tile(value, name);
    html += "</div>\n";
  }
  const auto before = [](const Figure& figure) {
    return html_figure(figure.title + " – baseline", render_figure(figure), figure.note);
  };
  html += "<div class=\"grid\">\n";
  for (const Figure& figure : section.figures) {
    html += html_figure(figure.title, render_figure(figure), figure.note);
    if (const Figure* fellow = figure_named(section.of_baseline, figure.name)) html += before(*fellow);
  }
  for (const Figure& figure : section.of_baseline) {
    if (figure_named(section.figures, figure.name) == nullptr) html += before(figure);
  }
  return html + "</div>\n";
}

std::string facts_html(const AnalysisPage& page) {
  std::string html = "<dl class=\"card\">\n";
  for (const auto& [name, value] : page.facts)
    html += concat("<dt>", escape_xml(name), "</dt><dd>", escape_xml(value), "</dd>\n");
  for (const auto& [name, reason] : page.passed_over)
    html += concat("<dt>no ", escape_xml(name), "</dt><dd>", escape_xml(reason), "</dd>\n");
  return html + "</dl>\n";
}

}  // namespace

std::string render_figure(const Figure& figure) {
  MOE_CHECK(figure.rows.size() == figure.values.size(), figure.name);
  if (figure.form == Figure::Form::kLines) return render_lines(figure);
  if (figure.form == Figure::Form::kScatter) return render_scatter(figure);
  return render_heatmap({.label = figure.title,
                         .row_title = figure.row_title,
                         .column_title = figure.column_title,
                         .rows = figure.rows,
                         .columns = figure.columns,
                         .values = figure.values,
                         .scale = figure.scale,
                         .unit = figure.unit,
                         .width = figure.columns.size() > kManyColumns ? 620.0 : 380.0});
}

std::string render_analysis_page(const AnalysisPage& page) {
  std::string body = concat("<header>\n<div class=\"head\"><h1>", escape_xml(page.title), "</h1></div>\n</header>\n",
                            facts_html(page));
  for (const AnalysisSection& section : page.sections) body += section_html(section);
  return html_page(page.title, body, {.style = kStyleOfSections});
}

std::map<std::string, std::string> analysis_drawings(const AnalysisPage& page) {
  std::map<std::string, std::string> drawings;
  for (const AnalysisSection& section : page.sections) {
    for (const Figure& figure : section.figures)
      drawings[concat(section.name, "_", figure.name, ".svg")] = render_figure(figure);
    for (const Figure& figure : section.of_baseline)
      drawings[concat(section.name, "_", figure.name, "_baseline.svg")] = render_figure(figure);
  }
  return drawings;
}

}  // namespace moe
