#include "report/conversion_report.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/measures.h"
#include "report/html_page.h"
#include "report/svg_line_chart.h"
#include "report/text.h"

namespace moe {
namespace {

/// A stage's metrics, NaN where one was not measured.
class Measured {
 public:
  explicit Measured(const StageReport& stage) : stage_(stage) {}

  double operator[](const std::string& name) const {
    const auto found = stage_.metrics.find(name);
    return found == stage_.metrics.end() ? std::nan("") : found->second;
  }
  bool has(const std::string& name) const { return stage_.metrics.contains(name); }

 private:
  const StageReport& stage_;
};

bool is_done_conversion(const StageReport& stage) {
  return stage.is_conversion && !stage.metrics.empty();
}

std::string share_text(double share) {
  return std::isfinite(share) ? concat(fixed(share * 100, 0), " %") : "-";
}

std::string memory_text(double bytes) {
  return std::isfinite(bytes) ? concat(count_text(static_cast<int64_t>(bytes)), "B") : "-";
}

std::string time_text(double seconds) {
  return std::isfinite(seconds) ? duration_text(seconds) : "-";
}

std::string small_text(double value) {
  return std::isfinite(value) ? short_number(value) : "-";
}

std::string cost_text(const Measured& measured) {
  if (!measured.has("seconds")) return "";
  return concat(" It took ", time_text(measured["seconds"]), " and ", memory_text(measured["peak_memory_bytes"]),
                " of memory.");
}

/// A sentence where the calibration text stands in files that models are evaluated on.
std::string overlap_text(const Measured& measured) {
  if (!measured.has("calibration_overlap") || measured["calibration_overlap"] <= 0) return "";
  return concat(" ", fixed(measured["calibration_overlap"] * 100, 1),
                " % of the calibration text's word 13-grams stand in files that the pipeline evaluates on.");
}

/// Two numbers of a conversion whose experts stand in FFNs, attention, or both: the FFN's line first.
std::string by_part(const Measured& measured, const std::string& ffn, const std::string& attention,
                    const std::function<std::string(double)>& text) {
  std::string cell = measured.has(ffn) ? text(measured[ffn]) : "-";
  if (measured.has(attention)) cell += concat("\nattention ", text(measured[attention]));
  return cell;
}

std::string load_text(const Measured& measured) {
  const auto range = [&](const std::string& part) {
    return concat(fixed(measured["step0_" + part + "load_min_over_mean"], 2), "\nto ",
                  fixed(measured["step0_" + part + "load_max_over_mean"], 2));
  };
  std::string cell = measured.has("step0_load_min_over_mean") ? range("") : "-";
  if (measured.has("step0_attention_load_min_over_mean")) cell += "\nattention " + range("attention_");
  return cell;
}

std::vector<std::string> cells_of(const StageReport& stage) {
  const Measured measured(stage);
  std::string with_all =
      concat("loss ", fixed(measured["step0_all_loss"], 3), "\nKL ", small_text(measured["step0_all_kl_divergence"]));
  if (measured.has("step0_all_logit_difference"))
    with_all += concat("\nlogits ", small_text(measured["step0_all_logit_difference"]));
  return {concat(stage.name, "\n", stage.measured_on.empty() ? "no text to measure it on" : stage.measured_on),
          concat(fixed(measured["step0_loss"], 3), "\ndense ", fixed(measured["step0_dense_loss"], 3)),
          small_text(measured["step0_perplexity"]),
          fixed(measured["step0_kl_divergence"], 3),
          with_all,
          by_part(measured, "step0_ffn_error", "step0_attention_error", [](double value) { return fixed(value, 3); }),
          load_text(measured),
          by_part(measured, "step0_dead_expert_fraction", "step0_attention_dead_expert_fraction", share_text),
          by_part(measured, "step0_router_logit_deviation", "step0_attention_router_logit_deviation",
                  [](double value) { return fixed(value, 2); }),
          concat(time_text(measured["seconds"]), "\n", memory_text(measured["peak_memory_bytes"]))};
}

/// The error of each layer, as a drawing; empty where none was measured.
std::string errors_figure(const StageReport& stage) {
  LineChart chart{.label = concat("Error by layer, ", stage.name), .x_title = "layer", .y_title = "", .series = {}};
  for (const auto& [name, errors] :
       {std::pair{"FFN", stage.ffn_errors}, std::pair{"attention", stage.attention_errors}}) {
    if (errors.empty()) continue;
    ChartSeries series{.name = name, .x = {}, .y = {}, .color = chart.series.size(), .has_dots = true};
    for (const auto& [layer, error] : errors) {
      series.x.push_back(static_cast<double>(layer));
      series.y.push_back(error);
    }
    chart.series.push_back(std::move(series));
  }
  if (chart.series.empty()) return "";
  return html_figure(chart.label, render_line_chart(chart),
                     "Squared error of a layer's output over the square of what the dense layer gives.");
}

}  // namespace

std::string conversion_text(const StageReport& stage) {
  if (!is_done_conversion(stage)) return "";
  const Measured measured(stage);
  if (!measured.has("step0_loss")) {
    return concat(stage.name, ": without calibration text nothing was measured of the conversion.",
                  cost_text(measured));
  }
  std::string text = concat(
      stage.name, " before training, on ", stage.measured_on, ": loss ", fixed(measured["step0_loss"], 3), " (dense ",
      fixed(measured["step0_dense_loss"], 3), "), perplexity ", small_text(measured["step0_perplexity"]),
      ", KL to dense ", fixed(measured["step0_kl_divergence"], 3), "; with all experts loss ",
      fixed(measured["step0_all_loss"], 3), ", KL ", small_text(measured["step0_all_kl_divergence"]));
  if (measured.has("step0_all_logit_difference")) {
    text += concat(", logits off by ", small_text(measured["step0_all_logit_difference"]), " of the greatest");
  }
  if (measured.has("step0_ffn_error")) {
    text +=
        concat("; FFN error ", fixed(measured["step0_ffn_error"], 3), " in the worst layer; load ",
               fixed(measured["step0_load_min_over_mean"], 2), "-", fixed(measured["step0_load_max_over_mean"], 2),
               " of an even share, ", share_text(measured["step0_dead_expert_fraction"]),
               " of the experts dead; router logits deviate by ", fixed(measured["step0_router_logit_deviation"], 2));
  }
  if (measured.has("step0_attention_error")) {
    text += concat("; attention error ", fixed(measured["step0_attention_error"], 3), " in the worst layer; its load ",
                   fixed(measured["step0_attention_load_min_over_mean"], 2), "-",
                   fixed(measured["step0_attention_load_max_over_mean"], 2), " of an even share, ",
                   share_text(measured["step0_attention_dead_expert_fraction"]), " of its experts dead; a token sees ",
                   share_text(measured["step0_attention_visible_keys"]), " of those before it");
  }
  return text + "." + overlap_text(measured) + cost_text(measured);
}

std::string conversions_html(const PipelineReport& report) {
  std::vector<std::vector<std::string>> rows;
  std::string overlaps, errors;
  for (const StageReport& stage : report.stages) {
    if (!is_done_conversion(stage)) continue;
    rows.push_back(cells_of(stage));
    errors += errors_figure(stage);
    if (const std::string text = overlap_text(Measured(stage)); !text.empty())
      overlaps += concat("<p>", escape_xml(stage.name), ":", text, "</p>\n");
  }
  if (rows.empty()) return "";
  const std::string caption = concat(
      "What was made before any training. Loss and KL divergence to the dense model in ", unit_of("step0_loss"),
      "; with all experts the KL, and how far logits are off over the greatest where the parts sum to the dense FFN; "
      "squared error of the FFN output, and of attention's where it became experts, over its square, worst layer; "
      "least and greatest expert load as multiples of an "
      "even share; deviation of the router's logits.");
  return concat(
      "<h2>Conversions</h2>\n",
      html_table(caption, {"", "loss", "perplexity", "KL", "all experts", "error", "load", "dead", "router", "cost"},
                 rows, true),
      overlaps, errors.empty() ? "" : concat("<div class=\"grid\">\n", errors, "</div>\n"));
}

}  // namespace moe
