#include <algorithm>

#include "cli/curves.h"
#include "cli/describe.h"
#include "cli/elastic_table.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "common/error.h"
#include "common/measures.h"
#include "report/pipeline_report.h"
#include "report/sparkline.h"
#include "report/table.h"
#include "report/text.h"

namespace moe {
namespace {

using Align = TextTable::Align;

constexpr int kLoadWidth = 32;
constexpr int kLabelWidth = 12;

std::string attempts_section(const v1::Job& job, int width) {
  if (job.attempts().empty()) return "";
  ElasticTable table({{"ATTEMPT", Align::kNumber},
                      {"GANG"},
                      {"STARTED"},
                      {"TOOK", Align::kNumber},
                      {"OUTCOME"},
                      {"EXIT", Align::kNumber},
                      {"LAST STEP", Align::kNumber},
                      {"MESSAGE"}});
  for (const v1::Attempt& attempt : job.attempts()) {
    table.add_row({std::to_string(attempt.number()), attempt.gang_id(), time_text(attempt.started()),
                   span_text(attempt.started(), attempt.ended()), outcome_text(attempt.outcome()),
                   is_set(attempt.ended()) ? std::to_string(attempt.exit_code()) : "-",
                   std::to_string(attempt.last_step()), attempt.message()});
  }
  return "\nAttempts\n" + table.render(width);
}

std::string checkpoints_section(const v1::Job& job, int width) {
  if (job.checkpoints().empty()) return "";
  ElasticTable table(
      {{"STEP", Align::kNumber}, {"ATTEMPT", Align::kNumber}, {"SIZE", Align::kNumber}, {"COMMITTED"}, {"PATH"}});
  for (const v1::Checkpoint& checkpoint : job.checkpoints()) {
    table.add_row({std::to_string(checkpoint.step()), std::to_string(checkpoint.attempt()),
                   bytes_text(checkpoint.bytes()), time_text(checkpoint.committed()), checkpoint.path()});
  }
  return "\nCheckpoints\n" + table.render(width);
}

std::string metrics_section(const v1::Job& job) {
  if (job.metrics().empty()) return "";
  std::vector<std::pair<std::string, double>> sorted(job.metrics().begin(), job.metrics().end());
  std::sort(sorted.begin(), sorted.end());
  TextTable table({{"METRIC"}, {"VALUE", Align::kNumber}, {"UNIT"}});
  for (const auto& [name, value] : sorted) table.add_row({name, short_number(value), unit_of(name)});
  return "\nMetrics\n" + table.render(kLabelWidth * 10);
}

/// Loads as multiples of an even share, experts in their order.
std::string load_section(const std::string& title, const google::protobuf::RepeatedPtrField<v1::LayerLoad>& layers) {
  if (layers.empty()) return "";
  TextTable table({{"LAYER", Align::kNumber}, {"LEAST", Align::kNumber}, {"MOST", Align::kNumber}, {"EXPERTS"}});
  for (int layer = 0; layer < layers.size(); ++layer) {
    const auto& tokens = layers[layer].tokens();
    if (tokens.empty()) continue;  // a dense layer
    const std::vector<double> load(tokens.begin(), tokens.end());
    const auto [least, most] = load_range(load);
    table.add_row({std::to_string(layer), fixed(least, 2), fixed(most, 2), sparkline(load, kLoadWidth)});
  }
  return concat("\n", title, ", as multiples of an even share\n") + table.render(kLabelWidth * 10);
}

}  // namespace

std::string field(const std::string& label, const std::string& value) {
  if (value.empty() || value == "-") return "";
  return label + std::string(std::max<int>(1, kLabelWidth - static_cast<int>(label.size())), ' ') + value + "\n";
}

std::string events_section(const std::vector<v1::Event>& events) {
  if (events.empty()) return "";
  std::string text = "\nLast events\n";
  for (const v1::Event& event : events) text += event_text(event) + "\n";
  return text;
}

std::string describe_job(const v1::Job& job, const v1::QueryMetricsResponse& metrics,
                         const std::vector<v1::Event>& events, int width) {
  std::string text = field("Job", job.id());
  text += field("Pipeline", job.pipeline_id());
  text += field("Stage", concat(job.stage().name(), "  (", job.kind(), ")"));
  text += field("State", concat(state_text(job.state()), job.reason().empty() ? "" : concat("  ", job.reason())));
  text += field("Message", job.message());
  text += field("Pending", job.pending_explanation());
  text += field("Progress", progress_text(job.progress()));
  text += field("Gang", job.gang_id());
  text += field(
      "Attempt",
      job.attempt() == 0
          ? ""
          : concat(job.attempt(),
                   job.failures() > 0 ? concat("  (", job.failures(), " failed since the last new checkpoint)") : ""));
  text += field("Created", time_text(job.created()));
  text += field("Started", time_text(job.started()));
  text += field("Finished", time_text(job.finished()));
  text += field("Not before", job.state() == v1::JOB_STATE_QUEUED ? time_text(job.not_before()) : "");
  text += field("Output", job.output_path());
  text += field("Digest", job.output_digest());
  const Curves curves = curves_of(metrics, {"loss"});
  if (!curves.steps.empty()) text += "\n" + curve_line(curves, 0) + "\n";
  return text + load_section("Expert load", job.expert_load()) +
         load_section("Attention expert load", job.attention_expert_load()) + attempts_section(job, width) +
         checkpoints_section(job, width) + metrics_section(job) + events_section(events);
}

}  // namespace moe
