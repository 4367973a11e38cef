#include "report/pipeline_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/measures.h"
#include "report/compared_variants.h"
#include "report/comparison.h"
#include "report/conversion_report.h"
#include "report/sparkline.h"
#include "report/svg_heatmap.h"
#include "report/table.h"
#include "report/text.h"

namespace moe {
namespace {

// A model's name over its column of numbers.
constexpr int kWidestLabel = 18;

const DomainResult* result_of(const ModelReport& model, const std::string& domain) {
  const auto found = model.domains.find(domain);
  return found == model.domains.end() ? nullptr : &found->second;
}

const ModelReport* first_with(const PipelineReport& report, ModelRole role) {
  const auto found = std::find_if(report.models.begin(), report.models.end(),
                                  [role](const ModelReport& model) { return model.role == role; });
  return found == report.models.end() ? nullptr : &*found;
}

std::string loss_text(const ModelReport& model, const std::string& domain) {
  const DomainResult* result = result_of(model, domain);
  return result == nullptr ? "-" : concat(fixed(result->loss, 3), " (", perplexity_text(result->perplexity), ")");
}

// "0.62-1.71", as multiples of an even share.
std::string range_text(const std::vector<double>& layer) {
  const auto [least, greatest] = load_range(layer);
  return concat(fixed(least, 2), "-", fixed(greatest, 2));
}

/// Which layers are mixtures, as their load tells.
std::string where_experts_are(const ModelReport& model) {
  const size_t layers = model.expert_load.size();
  size_t mixtures = 0;
  for (size_t layer = 0; layer < layers; ++layer)
    mixtures += has_load_of(model, &ModelReport::expert_load, layer) ? 1 : 0;
  return mixtures == layers ? "per layer" : concat("in ", mixtures, " of ", layers, " layers");
}

std::string percent(double share) {
  return concat(fixed(share * 100, 0), " %");
}

/// The best of a leaderboard, and what it is measured against.
std::string compared_summary(const PipelineReport& report) {
  const std::vector<ComparedVariant> rows = compared_variants(report);
  const ComparedVariant* best = nullptr;
  const ComparedVariant* dense = nullptr;
  int64_t dense_models = 0;
  for (const ComparedVariant& row : rows) {
    if (row.is_dense() && !row.is_trained()) {
      dense = &row;
      ++dense_models;
    }
    if (row.is_dense() || !row.last_mean()) continue;
    if (best == nullptr || row.last_mean()->mean < best->last_mean()->mean) best = &row;
  }
  const auto conversions = std::count_if(report.compared.begin(), report.compared.end(),
                                         [](const ComparedConversion& row) { return !row.experts.empty(); });
  std::string text = concat(conversions, " converted models compared.");
  if (best == nullptr) return text;
  text += concat(" Lowest mean held-out loss: ", best->label, ", ", fixed(best->last_mean()->mean, 3),
                 best->is_trained() ? " after training" : " as converted");
  if (dense_models == 1 && dense->mean_converted)
    text += concat("; ", dense->label, " ", fixed(dense->mean_converted->mean, 3));
  return text + ".";
}

void add_models(const PipelineReport& report, int width, std::string& out) {
  std::vector<TextTable::Column> columns{{"loss (perplexity)", TextTable::Align::kText}};
  for (const ModelReport& model : report.models)
    columns.push_back({shorten(clean_utf8(model.label), kWidestLabel), TextTable::Align::kNumber});
  TextTable table(columns);
  const auto add = [&](const std::string& name, const auto& cell_of) {
    std::vector<std::string> row{name};
    for (const ModelReport& model : report.models) row.push_back(cell_of(model));
    table.add_row(std::move(row));
  };
  for (const std::string& domain : domains_of(report)) {
    add(domain, [&](const ModelReport& model) { return loss_text(model, domain); });
  }
  table.add_rule();
  add("parameters", [](const ModelReport& model) { return count_text(model.parameters_total); });
  add("active per token", [](const ModelReport& model) { return count_text(model.parameters_active); });
  bool has_load = false;
  for (const ReportedPart& part : kReportedParts) {
    const std::vector<size_t> layers = layers_with_load(report, part.load);
    if (!layers.empty()) table.add_rule();
    for (const size_t l : layers) {
      has_load = true;
      add(concat(part.prefix, "load, layer ", l), [&](const ModelReport& model) {
        return has_load_of(model, part.load, l) ? range_text((model.*part.load)[l]) : "-";
      });
    }
  }
  out += table.render(width);
  out += wrapped(concat("Loss: ", unit_of("loss"), " on held-out text."), width);
  if (!has_load) return;
  out += wrapped(
      "Load: least-greatest share of its layer's tokens that an expert gets, as a multiple of an even share; 1 is "
      "even, 0 is a dead expert.",
      width);
}

void add_curves(const PipelineReport& report, int width, std::string& out) {
  for (const StageReport& stage : report.stages) {
    if (stage.loss_curve.size() < 2) continue;
    std::vector<double> losses;
    for (const LossPoint& point : stage.loss_curve) losses.push_back(point.loss);
    std::erase_if(losses, [](double loss) { return !std::isfinite(loss); });
    if (losses.empty()) continue;
    const std::string numbers = concat(fixed(losses.front(), 3), " -> ", fixed(losses.back(), 3));
    const int room = std::min(48, width - display_width(stage.name) - static_cast<int>(numbers.size()) - 8);
    out += concat(clean_utf8(stage.name), " loss  ", sparkline(losses, std::max(8, room)), "  ", numbers, "\n");
  }
}

}  // namespace

std::vector<std::string> domains_of(const PipelineReport& report) {
  std::set<std::string> all;
  for (const ModelReport& model : report.models) {
    for (const auto& [domain, result] : model.domains) all.insert(domain);
  }
  std::vector<std::string> ordered;
  for (const std::string& domain : report.domain_order) {
    if (all.erase(domain) > 0) ordered.push_back(domain);
  }
  ordered.insert(ordered.end(), all.begin(), all.end());
  return ordered;
}

std::optional<double> gap_closed(const PipelineReport& report, const std::string& domain) {
  const ModelReport* dense = first_with(report, ModelRole::kDense);
  const ModelReport* converted = first_with(report, ModelRole::kConverted);
  if (dense == nullptr || converted == nullptr || report.models.back().role != ModelRole::kTrained) return std::nullopt;
  const DomainResult* before = result_of(*dense, domain);
  const DomainResult* damaged = result_of(*converted, domain);
  const DomainResult* last = result_of(report.models.back(), domain);
  if (before == nullptr || damaged == nullptr || last == nullptr) return std::nullopt;
  const double share = (damaged->loss - last->loss) / (damaged->loss - before->loss);
  if (!(damaged->loss > before->loss) || !std::isfinite(share)) return std::nullopt;
  return share;
}

bool has_load_of(const ModelReport& model, LoadOfPart part, size_t layer) {
  return layer < (model.*part).size() && !(model.*part)[layer].empty();
}

std::vector<size_t> layers_with_load(const PipelineReport& report, LoadOfPart part) {
  size_t most = 0;
  for (const ModelReport& model : report.models) most = std::max(most, (model.*part).size());
  std::vector<size_t> layers;
  for (size_t layer = 0; layer < most; ++layer) {
    const bool is_any = std::any_of(report.models.begin(), report.models.end(),
                                    [&](const ModelReport& model) { return has_load_of(model, part, layer); });
    if (is_any) layers.push_back(layer);
  }
  return layers;
}

std::pair<double, double> load_range(const std::vector<double>& layer) {
  if (layer.empty()) return {0, 0};
  const std::vector<double> relative = relative_load(layer);
  const auto [least, greatest] = std::minmax_element(relative.begin(), relative.end());
  return {*least, *greatest};
}

std::string summary_text(const PipelineReport& report) {
  std::string text;
  if (report.state != "SUCCEEDED") {
    text = concat("The pipeline is ", report.state, report.reason.empty() ? "" : concat(": ", report.reason), ". ");
  }
  if (!report.compared.empty()) return text + compared_summary(report);
  if (report.models.size() < 2) return text.empty() ? "The pipeline is done." : text.substr(0, text.size() - 1);
  const ModelReport* dense = first_with(report, ModelRole::kDense);
  const ModelReport& last = report.models.back();
  if (dense != nullptr && last.experts > 0) {
    text += concat("A dense model of ", count_text(dense->parameters_total), " parameters became a mixture of ",
                   last.experts, " experts ", where_experts_are(last), ", ", last.top_k, " active: ");
  } else {
    text += "The result has ";
  }
  text += concat(count_text(last.parameters_total), " parameters, ", count_text(last.parameters_active), " of them (",
                 percent(static_cast<double>(last.parameters_active) /
                         static_cast<double>(std::max<int64_t>(1, last.parameters_total))),
                 ") per token.");
  // Dense, converted and the last, as far as they were measured: the steps between are in the table.
  std::vector<std::pair<const char*, const ModelReport*>> told;
  if (dense != nullptr) told.emplace_back("dense", dense);
  const ModelReport* converted = first_with(report, ModelRole::kConverted);
  if (converted != nullptr) told.emplace_back("converted", converted);
  if (last.role == ModelRole::kTrained) told.emplace_back(converted != nullptr ? "recovered" : "trained", &last);
  std::string names, losses;
  for (const auto& [name, model] : told) names += concat(names.empty() ? "" : " → ", name);
  double sum = 0;
  int counted = 0;
  for (const std::string& domain : domains_of(report)) {
    std::string values;
    for (const auto& [name, model] : told) {
      const DomainResult* result = result_of(*model, domain);
      values += concat(values.empty() ? "" : " → ", result == nullptr ? "-" : fixed(result->loss, 2));
    }
    if (told.size() > 1 && result_of(*told.back().second, domain) != nullptr) {
      losses += concat(losses.empty() ? "" : ", ", domain, " ", values);
    }
    if (const auto share = gap_closed(report, domain)) {
      sum += *share;
      ++counted;
    }
  }
  if (!losses.empty()) text += concat(" Held-out loss, ", names, ": ", losses, ".");
  if (counted > 0) {
    text += concat(" Training closed ", percent(sum / counted), " of the gap that the conversion opened",
                   counted > 1 ? concat(" (mean of ", counted, " domains).") : ".");
  }
  return text;
}

std::string render_terminal(const PipelineReport& report, int width) {
  width = std::max(width, 40);
  std::string out = concat(clean_utf8(report.name), ": ", clean_utf8(report.state), "\n\n",
                           wrapped(clean_utf8(summary_text(report)), width), "\n");
  // Many models would not fit side by side.
  if (!report.compared.empty()) {
    out += concat(comparison_text(report, width), "\n");
  } else if (!report.models.empty()) {
    add_models(report, width, out);
    out += '\n';
  }
  size_t before = out.size();
  for (const StageReport& stage : report.stages) {
    if (!report.compared.empty()) break;  // the leaderboard says it
    if (const std::string text = conversion_text(stage); !text.empty()) out += wrapped(clean_utf8(text), width);
  }
  if (out.size() != before) out += '\n';
  before = out.size();
  add_curves(report, width, out);
  if (out.size() != before) out += '\n';
  int widest = 0;
  for (const auto& [label, path] : report.paths) widest = std::max(widest, display_width(clean_utf8(label)));
  for (const auto& [label, path] : report.paths) {
    const std::string name = clean_utf8(label);
    // A path is never cut: it is there to be copied.
    out += concat(name, std::string(widest - display_width(name) + 2, ' '), clean_utf8(path), "\n");
  }
  return out;
}

}  // namespace moe
