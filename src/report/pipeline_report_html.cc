#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/measures.h"
#include "report/comparison.h"
#include "report/conversion_report.h"
#include "report/html_page.h"
#include "report/pipeline_report.h"
#include "report/svg_heatmap.h"
#include "report/text.h"

namespace moe {
namespace {

std::string tiles(const PipelineReport& report) {
  if (report.models.size() < 2) return "";
  const ModelReport& last = report.models.back();
  std::string html = "<div class=\"tiles\">\n";
  html += html_tile(count_text(last.parameters_total), "parameters");
  html += html_tile(count_text(last.parameters_active), "active per token");
  if (last.experts > 0) html += html_tile(concat(last.top_k, " of ", last.experts), "experts per token");
  for (const std::string& domain : domains_of(report)) {
    if (const auto share = gap_closed(report, domain)) {
      html += html_tile(concat(fixed(*share * 100, 0), " %"), concat("of the gap closed, ", domain));
    }
  }
  return html + "</div>\n";
}

/// Least and greatest of all layers; "-" of a dense model.
std::string load_cell(const std::vector<std::vector<double>>& load) {
  if (load.empty()) return "-";
  double least = INFINITY, greatest = 0;
  for (const auto& layer : load) {
    if (layer.empty()) continue;  // a dense one
    const auto [low, high] = load_range(layer);
    least = std::min(least, low);
    greatest = std::max(greatest, high);
  }
  return concat(fixed(least, 2), "\nto ", fixed(greatest, 2));
}

std::string models_table(const PipelineReport& report) {
  if (report.models.empty()) return "";
  std::vector<std::string> header{""};
  for (const ModelReport& model : report.models) header.push_back(model.label);
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](std::string name, const auto& cell_of) {
    std::vector<std::string> row{std::move(name)};
    for (const ModelReport& model : report.models) row.push_back(cell_of(model));
    rows.push_back(std::move(row));
  };
  for (const std::string& domain : domains_of(report)) {
    add(domain, [&](const ModelReport& model) -> std::string {
      const auto found = model.domains.find(domain);
      if (found == model.domains.end()) return "-";
      return concat(fixed(found->second.loss, 3), "\n", perplexity_text(found->second.perplexity));
    });
  }
  add("parameters", [](const ModelReport& model) { return count_text(model.parameters_total); });
  add("active", [](const ModelReport& model) { return count_text(model.parameters_active); });
  for (const ReportedPart& part : kReportedParts) {
    if (part.load == &ModelReport::attention_expert_load && layers_with_load(report, part.load).empty()) continue;
    add(concat(part.prefix, "expert load\nleast, greatest"),
        [&](const ModelReport& model) { return load_cell(model.*part.load); });
  }
  return concat("<h2>Models</h2>\n",
                html_table(concat("Held-out loss in ", unit_of("loss"),
                                  ", perplexity below it; expert load as a multiple of an even share."),
                           header, rows, true));
}

std::string load_table(const PipelineReport& report, const ReportedPart& part) {
  const std::vector<size_t> layers = layers_with_load(report, part.load);
  if (layers.empty()) return "";
  std::vector<std::string> header{"layer"};
  std::vector<const ModelReport*> sparse;
  for (const ModelReport& model : report.models) {
    if ((model.*part.load).empty()) continue;
    header.push_back(model.label);
    sparse.push_back(&model);
  }
  std::vector<std::vector<std::string>> rows;
  for (const size_t l : layers) {
    std::vector<std::string> row{std::to_string(l)};
    for (const ModelReport* model : sparse) {
      const bool has_load = has_load_of(*model, part.load, l);
      const auto [low, high] = has_load ? load_range((model->*part.load)[l]) : std::pair<double, double>{};
      row.push_back(has_load ? concat(fixed(low, 2), "–", fixed(high, 2)) : "-");
    }
    rows.push_back(std::move(row));
  }
  return html_table(concat("Least and greatest ", part.prefix, "expert load per layer, as multiples of an even share."),
                    header, rows, true);
}

std::string stage_load_figure(const std::string& what, const StageReport& stage,
                              const std::vector<std::vector<double>>& load) {
  if (load.empty()) return "";
  const LoadHeatmap heatmap{concat(what, " by layer and expert in ", stage.name), load};
  return html_figure(concat(what, ", ", stage.name), render_load_heatmap(heatmap), "");
}

/// Of more validations than there is room for, every so many.
std::string course_figure(const std::string& what, const StageReport& stage, const ExpertCourse::Rows& rows) {
  constexpr size_t kMostColumns = 24;
  const std::vector<int64_t>& steps = stage.expert_course.steps;
  if (rows.empty()) return "";
  const size_t stride = (steps.size() + kMostColumns - 1) / kMostColumns;
  const auto is_drawn = [&](size_t i) { return (steps.size() - 1 - i) % stride == 0; };
  Heatmap heatmap{.label = concat(what, " by layer and step in ", stage.name),
                  .row_title = "layer",
                  .column_title = "step",
                  .unit = "× the mean of its layer"};
  for (size_t i = 0; i < steps.size(); ++i) {
    if (is_drawn(i)) heatmap.columns.push_back(std::to_string(steps[i]));
  }
  for (const auto& [part, values] : rows) {
    const auto& [layer, is_of_attention] = part;
    heatmap.rows.push_back(concat(layer, is_of_attention ? " attention" : ""));
    std::vector<double>& drawn = heatmap.values.emplace_back();
    for (size_t i = 0; i < values.size(); ++i) {
      if (is_drawn(i)) drawn.push_back(values[i]);
    }
  }
  return html_figure(concat(what, ", ", stage.name), render_heatmap(heatmap), "");
}

std::string courses_html(const PipelineReport& report) {
  std::string figures;
  for (const StageReport& stage : report.stages) {
    figures += course_figure("Least output share of an expert", stage, stage.expert_course.least_output_share);
    figures += course_figure("Least weights of an expert", stage, stage.expert_course.least_weight_rms);
  }
  if (figures.empty()) return "";
  return concat(
      "<h2>Whether experts live</h2>\n",
      "<p class=\"muted\">At each validation, the least of a layer's experts over their mean: near 0 one is "
      "dying, whatever its load. Output share: norm of what an expert adds to the layer's output, summed over "
      "its tokens. Weights: root of their mean square.</p>\n<div class=\"grid\">\n",
      figures, "</div>\n");
}

std::string loss_figure(const StageReport& stage) {
  std::string note;
  if (const auto speed = stage.metrics.find("tokens_per_second"); speed != stage.metrics.end()) {
    note = concat(short_number(speed->second), " ", unit_of("tokens_per_second"));
  }
  return html_figure(concat("Loss, ", stage.name),
                     render_loss_curve(concat("Loss by step in ", stage.name), stage.loss_curve), note);
}

std::string scales_note(const std::string& what, const std::vector<double>& scales) {
  if (scales.empty()) return "";
  std::string text = concat(what, " by layer: ");
  for (size_t l = 0; l < scales.size(); ++l) {
    if (l > 0) text += ", ";
    text += short_number(scales[l]);
  }
  return text;
}

std::string figures(const PipelineReport& report) {
  std::string losses, loads;
  for (const StageReport& stage : report.stages) {
    if (!stage.loss_curve.empty()) losses += loss_figure(stage);
    loads += stage_load_figure("Expert load", stage, stage.expert_load);
    loads += stage_load_figure("Attention expert load", stage, stage.attention_expert_load);
  }
  std::string html;
  if (!losses.empty()) html += concat("<h2>Loss curves</h2>\n<div class=\"grid\">\n", losses, "</div>\n");
  std::string table;
  for (const ReportedPart& part : kReportedParts) table += load_table(report, part);
  if (!loads.empty() || !table.empty()) html += "<h2>Expert load</h2>\n";
  if (!loads.empty()) {
    html += concat(
        "<p class=\"muted\">Each expert's share of its layer's tokens as a multiple of an even share: 1 is even, 0 is "
        "a dead expert.</p>\n<div class=\"grid\">\n",
        loads, "</div>\n");
  }
  if (!table.empty()) html += table;
  return html;
}

// Stage, state and time; kind, message and scales under the name.
std::string stages_table(const PipelineReport& report) {
  if (report.stages.empty()) return "";
  std::string html =
      concat("<h2>Stages</h2>\n<div class=\"card scroll\">\n<table>\n<thead><tr><th scope=\"col\">stage</th>",
             "<th scope=\"col\">state</th><th scope=\"col\">time</th></tr></thead>\n<tbody>\n");
  for (const StageReport& stage : report.stages) {
    std::string details;
    for (const std::string& text : {stage.kind, stage.message, scales_note("Output scale", stage.output_scales),
                                    scales_note("Attention's output scale", stage.attention_output_scales)}) {
      if (!text.empty()) details += concat("<small>", escape_xml(text), "</small>");
    }
    html += concat("<tr><th scope=\"row\">", escape_xml(stage.name), details, "</th><td>", html_badge(stage.state),
                   "</td><td class=\"time\">", stage.seconds > 0 ? duration_text(stage.seconds) : "", "</td></tr>\n");
  }
  return html + "</tbody>\n</table>\n</div>\n";
}

std::string paths_list(const PipelineReport& report) {
  if (report.paths.empty()) return "";
  std::string html = "<h2>Files</h2>\n<dl class=\"card\">\n";
  for (const auto& [label, path] : report.paths) {
    html += concat("<dt>", escape_xml(label), "</dt><dd>", escape_xml(path), "</dd>\n");
  }
  return html + "</dl>\n";
}

}  // namespace

std::string render_html(const PipelineReport& report) {
  std::string body = concat("<header>\n<div class=\"head\"><h1>", escape_xml(report.name), "</h1>",
                            html_badge(report.state), "</div>\n");
  if (!report.finished_at.empty()) body += concat("<p class=\"muted\">", escape_xml(report.finished_at), "</p>\n");
  body += concat("<p class=\"summary\">", escape_xml(summary_text(report)), "</p>\n</header>\n");
  if (report.compared.empty()) body += tiles(report);
  body += report.compared.empty() ? models_table(report) : comparison_html(report);
  body += conversions_html(report);
  body += figures(report);
  body += courses_html(report);
  body += stages_table(report);
  body += paths_list(report);
  if (!report.config.empty()) {
    body += concat(
        "<h2>Configuration</h2>\n<details class=\"card\"><summary>The effective configuration, defaults filled "
        "in</summary>\n<pre>",
        escape_xml(report.config), "</pre></details>\n");
  }
  return html_page(concat(report.name, " – ", report.state), body);
}

}  // namespace moe
