#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// What one optimizer step measured, all ranks together: made by the training loop, the same on every rank, and passed
/// on as it is. It becomes text at two edges only: a line of metrics.jsonl (json_line) and a point of ReportMetrics
/// (values_of). Its numbers are those of common/measures.h.
struct StepRecord {
  int64_t step = 0;          ///< finished
  int64_t steps = 0;         ///< that the job asks for
  double loss = 0;           ///< that curves show: nats per target token, without what is added to it
  double total_loss = 0;     ///< that was trained on
  double gradient_norm = 0;  ///< before clipping
  double learning_rate = 0;
  int64_t tokens = 0;       ///< since step 0, also before a resume
  int64_t step_tokens = 0;  ///< of this step
  double seconds = 0;       ///< wall time
  bool skipped = false;     ///< no update was made: loss or gradient were not finite
  /// Routed tokens, [layers][experts]; no experts in a dense layer; empty if all are dense.
  std::vector<std::vector<int64_t>> expert_load;
  std::vector<std::vector<int64_t>> attention_expert_load{};  ///< the same of attention's experts that are chosen
  std::optional<double> validation_loss;                      ///< if the step was followed by a validation
  std::map<std::string, double> validation;                   ///< by domain
  /// Of the same validation, of every part of a layer that has experts: {"layer", "part", "weight_norm": [experts],
  /// "output_share": [experts], and the least of them over their mean}; null without experts.
  nlohmann::json expert_vitality{};
  std::map<std::string, double> statistics;  ///< what layers and recipes measured, by the name of its measure

  double tokens_per_second() const { return static_cast<double>(step_tokens) / seconds; }
  bool is_finite() const { return std::isfinite(loss) && std::isfinite(gradient_norm); }
};

/// Whether a statistic may be called so: lines have no number of that name of their own.
bool is_free_name(std::string_view name);

/// A line of metrics.jsonl. What is not finite is written as null.
nlohmann::json json_line(const StepRecord& record);

/// Every number of a step under its dotted name; domains as "validation_loss.<domain>".
std::map<std::string, double> values_of(const StepRecord& record);

}  // namespace moe
