#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/measures.h"
#include "pipeline/problem.h"
#include "report/compared_conversions.h"
#include "report/html_page.h"
#include "report/svg_gap_chart.h"
#include "report/table.h"
#include "report/text.h"

/// The leaderboard: rows are ways to convert, in the order of the file.
namespace moe {
namespace {

std::string loss_of(const std::map<std::string, double>& losses, const std::string& domain) {
  const auto found = losses.find(domain);
  return found == losses.end() ? "-" : fixed(found->second, 3);
}

/// Of the last model that was measured.
const std::map<std::string, double>& last_losses(const ComparedConversion& row) {
  return row.trained.empty() ? row.converted : row.trained;
}

std::string number_or_dash(double value) {
  return std::isfinite(value) ? fixed(value, 3) : "-";
}

/// Active parameters of a row as a share of its dense model's.
std::string active_text(const ComparedConversion& row) {
  if (row.dense_parameters <= 0 || row.parameters_active <= 0) return "-";
  return concat(fixed(100 * static_cast<double>(row.parameters_active) / static_cast<double>(row.dense_parameters), 0),
                " %");
}

std::string load_text(const ComparedConversion& row) {
  return row.load ? concat(fixed(row.load->first, 2), "-", fixed(row.load->second, 2)) : "-";
}

/// Cells of the columns that terminal and page share, after those of the losses.
std::vector<std::string> facts(const ComparedConversion& row) {
  return {row.divergence ? fixed(*row.divergence, 3) : "-", load_text(row),
          row.seconds > 0 ? duration_text(row.seconds) : "-", row.export_format.empty() ? "-" : row.export_format};
}

constexpr const char* kFacts[] = {"KL", "load", "time", "export"};

std::string legend(const PipelineReport& report, const std::string& losses) {
  return concat("Losses in ", unit_of("loss"), " on held-out text, ", losses, "; mean: over ",
                comma_separated(common_domains(report)),
                ". Active: parameters per token as a share of the dense model's. KL: from the dense model to "
                "the converted one, in nats per token, of the conversion's own receipt. Time: of conversion and "
                "training. Load: least and greatest of an expert in any layer, as a "
                "multiple of an even share.");
}

}  // namespace

std::vector<std::string> common_domains(const PipelineReport& report) {
  std::vector<std::string> domains = domains_of(report);
  for (const ComparedConversion& row : report.compared) {
    for (const std::map<std::string, double>* losses : {&row.converted, &row.trained}) {
      if (!losses->empty())
        std::erase_if(domains, [&](const std::string& domain) { return !losses->contains(domain); });
    }
  }
  return domains;
}

double mean_loss(const PipelineReport& report, const ComparedConversion& row, bool is_trained) {
  const std::map<std::string, double>& losses = is_trained ? row.trained : row.converted;
  double sum = 0;
  const std::vector<std::string> domains = common_domains(report);
  for (const std::string& domain : domains) {
    const auto found = losses.find(domain);
    if (found == losses.end()) return std::numeric_limits<double>::quiet_NaN();
    sum += found->second;
  }
  return domains.empty() ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(domains.size());
}

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
  for (const ComparedConversion& row : report.compared) {
    std::vector<std::string> cells{row.label, row.experts, active_text(row)};
    for (const std::string& domain : domains) cells.push_back(loss_of(last_losses(row), domain));
    const std::string converted = number_or_dash(mean_loss(report, row, false));
    cells.push_back(row.trained.empty() ? converted
                                        : concat(converted, " → ", number_or_dash(mean_loss(report, row, true))));
    for (std::string& fact : facts(row)) cells.push_back(std::move(fact));
    table.add_row(std::move(cells));
  }
  return concat(
      table.render(width),
      wrapped(legend(report, "of the last model that was measured, the mean as converted → after training"), width));
}

std::string comparison_html(const PipelineReport& report) {
  if (report.compared.empty()) return "";
  const std::vector<std::string> domains = domains_of(report);
  std::vector<std::string> header{"", "experts", "active"};
  header.insert(header.end(), domains.begin(), domains.end());
  header.emplace_back("mean");
  header.insert(header.end(), std::begin(kFacts), std::end(kFacts));
  std::vector<std::vector<std::string>> rows;
  GapChart chart{.label = "Mean held-out loss of each conversion, as converted and after training",
                 .x_title = concat("mean held-out loss, ", unit_of("loss"))};
  // One dense model is what the others are read against; of several, each is a row.
  const auto dense_rows = std::count_if(report.compared.begin(), report.compared.end(),
                                        [](const auto& row) { return row.experts.empty() && row.trained.empty(); });
  for (const ComparedConversion& row : report.compared) {
    const double converted = mean_loss(report, row, false), trained = mean_loss(report, row, true);
    // The earlier loss stands small below the later.
    const auto both = [&](const std::string& before, const std::string& after) {
      return row.trained.empty() ? before : concat(after, "\n", before);
    };
    std::vector<std::string> cells{row.label, row.experts.empty() ? "dense" : row.experts, active_text(row)};
    for (const std::string& domain : domains)
      cells.push_back(both(loss_of(row.converted, domain), loss_of(row.trained, domain)));
    cells.push_back(both(number_or_dash(converted), number_or_dash(trained)));
    for (std::string& fact : facts(row)) cells.push_back(std::move(fact));
    rows.push_back(std::move(cells));
    if (row.experts.empty() && row.trained.empty() && dense_rows == 1) {
      chart.reference = converted;
      chart.reference_name = concat(row.label, " ", number_or_dash(converted));
    } else {
      chart.rows.push_back({row.label, converted, trained});
    }
  }
  return concat("<h2>Conversions compared</h2>\n", html_figure("Mean held-out loss", render_gap_chart(chart), ""),
                html_table(legend(report, "after training, as converted below"), header, rows, true));
}

}  // namespace moe
