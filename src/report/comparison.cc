#include "report/comparison.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/measures.h"
#include "pipeline/problem.h"
#include "report/compared_variants.h"
#include "report/html_page.h"
#include "report/svg_gap_chart.h"
#include "report/table.h"
#include "report/text.h"

namespace moe {
namespace {

/// "3.125", with several seeds "3.125 ± 0.012"; "-" of nothing.
std::string spread_text(const std::optional<SeedSpread>& spread) {
  if (!spread) return "-";
  return spread->deviation ? concat(fixed(spread->mean, 3), " ± ", fixed(*spread->deviation, 3))
                           : fixed(spread->mean, 3);
}

std::optional<SeedSpread> loss_of(const std::map<std::string, SeedSpread>& losses, const std::string& domain) {
  const auto found = losses.find(domain);
  return found == losses.end() ? std::nullopt : std::optional(found->second);
}

/// Active parameters of a row as a share of its dense model's.
std::optional<double> active_share(const ComparedVariant& row) {
  if (row.dense_parameters <= 0 || row.parameters_active <= 0) return std::nullopt;
  return static_cast<double>(row.parameters_active) / static_cast<double>(row.dense_parameters);
}

std::string active_text(const ComparedVariant& row) {
  const std::optional<double> share = active_share(row);
  return share ? concat(fixed(100 * *share, 0), " %") : "-";
}

nlohmann::json spread_json(const SeedSpread& spread) {
  nlohmann::json result = {{"mean", spread.mean}};
  if (spread.deviation) result["deviation"] = *spread.deviation;
  if (spread.values.size() > 1) result["seeds"] = spread.values;
  return result;
}

nlohmann::json losses_json(const std::map<std::string, SeedSpread>& losses, const std::optional<SeedSpread>& mean) {
  nlohmann::json result = {{"domains", nlohmann::json::object()}};
  for (const auto& [domain, loss] : losses) result["domains"][domain] = spread_json(loss);
  if (mean) result["mean"] = spread_json(*mean);
  return result;
}

std::string load_text(const ComparedVariant& row) {
  return row.load ? concat(fixed(row.load->first, 2), "-", fixed(row.load->second, 2)) : "-";
}

/// Cells of the columns that terminal and page share, after those of the losses.
std::vector<std::string> facts(const ComparedVariant& row) {
  return {spread_text(row.divergence), load_text(row), row.seconds > 0 ? duration_text(row.seconds) : "-",
          row.export_format.empty() ? "-" : row.export_format};
}

std::optional<GapChartDot> dot_of(const std::optional<SeedSpread>& spread) {
  if (!spread) return std::nullopt;
  return GapChartDot{spread->mean, spread->deviation.value_or(0)};
}

constexpr const char* kFacts[] = {"KL", "load", "time", "export"};

std::string legend(const PipelineReport& report, const std::vector<ComparedVariant>& rows, const std::string& losses) {
  const bool has_spread = std::any_of(rows.begin(), rows.end(), [](const ComparedVariant& row) {
    return row.last_mean() && row.last_mean()->deviation.has_value();
  });
  return concat(
      "Losses in ", unit_of("loss"), " on held-out text, ", losses, "; mean: over ",
      comma_separated(common_domains(report)),
      ". Active: parameters per token as a share of the dense model's. KL: from the dense model to "
      "the converted one, in nats per token, of the conversion's own receipt. Time: of conversion and "
      "training. Load: least and greatest of an expert in any layer, as a "
      "multiple of an even share.",
      has_spread ? " ±: standard deviation over the seeds; load and time are the widest and the mean of them." : "");
}

}  // namespace

std::string comparison_text(const PipelineReport& report, int width) {
  if (report.compared.empty()) return "";
  using Align = TextTable::Align;
  std::vector<TextTable::Column> columns{
      {"conversion", Align::kText}, {"experts", Align::kText}, {"active", Align::kNumber}};
  const std::vector<std::string> domains = domains_of(report);
  for (const std::string& domain : domains) columns.push_back({domain, Align::kNumber});
  columns.push_back({"mean", Align::kNumber});
  for (const char* name : kFacts) columns.push_back({name, Align::kNumber});
  TextTable table(columns);
  const std::vector<ComparedVariant> rows = compared_variants(report);
  for (const ComparedVariant& row : rows) {
    std::vector<std::string> cells{row.label, row.experts, active_text(row)};
    // A terminal has no room for the spread in each domain.
    for (const std::string& domain : domains) {
      const auto loss = loss_of(row.is_trained() ? row.trained : row.converted, domain);
      cells.push_back(loss ? fixed(loss->mean, 3) : "-");
    }
    const std::string converted = spread_text(row.mean_converted);
    cells.push_back(row.is_trained() ? concat(converted, " → ", spread_text(row.mean_trained)) : converted);
    for (std::string& fact : facts(row)) cells.push_back(std::move(fact));
    table.add_row(std::move(cells));
  }
  return concat(
      table.render(width),
      wrapped(legend(report, rows, "of the last model that was measured, the mean as converted → after training"),
              width));
}

std::string comparison_html(const PipelineReport& report) {
  if (report.compared.empty()) return "";
  const std::vector<std::string> domains = domains_of(report);
  std::vector<std::string> header{"", "experts", "active"};
  header.insert(header.end(), domains.begin(), domains.end());
  header.emplace_back("mean");
  header.insert(header.end(), std::begin(kFacts), std::end(kFacts));
  std::vector<std::vector<std::string>> cells_of_rows;
  GapChart chart{.label = "Mean held-out loss of each conversion, as converted and after training",
                 .x_title = concat("mean held-out loss, ", unit_of("loss"))};
  const std::vector<ComparedVariant> rows = compared_variants(report);
  const auto is_untrained_dense = [](const ComparedVariant& row) { return row.is_dense() && !row.is_trained(); };
  // One dense model is what the others are read against; of several, each is a row.
  const auto dense_rows = std::count_if(rows.begin(), rows.end(), is_untrained_dense);
  for (const ComparedVariant& row : rows) {
    // The earlier loss stands small below the later.
    const auto both = [&](const std::optional<SeedSpread>& before, const std::optional<SeedSpread>& after) {
      return row.is_trained() ? concat(spread_text(after), "\n", spread_text(before)) : spread_text(before);
    };
    std::vector<std::string> cells{row.label, row.is_dense() ? "dense" : row.experts, active_text(row)};
    for (const std::string& domain : domains)
      cells.push_back(both(loss_of(row.converted, domain), loss_of(row.trained, domain)));
    cells.push_back(both(row.mean_converted, row.mean_trained));
    for (std::string& fact : facts(row)) cells.push_back(std::move(fact));
    cells_of_rows.push_back(std::move(cells));
    if (is_untrained_dense(row) && dense_rows == 1) {
      if (row.mean_converted) chart.reference = row.mean_converted->mean;
      chart.reference_name = concat(row.label, " ", spread_text(row.mean_converted));
    } else {
      chart.rows.push_back({row.label, dot_of(row.mean_converted), dot_of(row.mean_trained)});
    }
  }
  return concat("<h2>Conversions compared</h2>\n", html_figure("Mean held-out loss", render_gap_chart(chart), ""),
                html_table(legend(report, rows, "after training, as converted below"), header, cells_of_rows, true));
}

nlohmann::json comparison_json(const PipelineReport& report) {
  nlohmann::json rows = nlohmann::json::array();
  for (const ComparedVariant& row : compared_variants(report)) {
    nlohmann::json one = {{"label", row.label}, {"experts", row.experts}, {"seconds", row.seconds}};
    if (const auto share = active_share(row)) one["active"] = *share;
    if (!row.converted.empty()) one["converted"] = losses_json(row.converted, row.mean_converted);
    if (row.is_trained()) one["trained"] = losses_json(row.trained, row.mean_trained);
    if (row.divergence) one["divergence"] = spread_json(*row.divergence);
    if (row.load) one["load"] = {{"least", row.load->first}, {"greatest", row.load->second}};
    if (!row.export_format.empty()) one["export"] = row.export_format;
    rows.push_back(std::move(one));
  }
  return rows;
}

}  // namespace moe
