#include "common/step_record.h"

#include <algorithm>

namespace moe {
namespace {

/// Those that stand in a line as they are named.
std::map<std::string, double> plain_values(const StepRecord& record) {
  std::map<std::string, double> values{{"loss", record.loss},
                                       {"gradient_norm", record.gradient_norm},
                                       {"learning_rate", record.learning_rate},
                                       {"tokens_per_second", record.tokens_per_second()},
                                       {"step_seconds", record.seconds}};
  if (record.validation_loss) values["validation_loss"] = *record.validation_loss;
  values.insert(record.statistics.begin(), record.statistics.end());
  return values;
}

}  // namespace

bool is_free_name(std::string_view name) {
  constexpr std::string_view kTaken[] = {
      "step",           "loss",    "gradient_norm", "learning_rate",         "tokens",          "tokens_per_second",
      "step_seconds",   "skipped", "expert_load",   "attention_expert_load", "validation_loss", "validation",
      "expert_vitality"};
  return std::find(std::begin(kTaken), std::end(kTaken), name) == std::end(kTaken);
}

nlohmann::json json_line(const StepRecord& record) {
  nlohmann::json line = plain_values(record);
  line["step"] = record.step;
  line["tokens"] = record.tokens;
  if (record.skipped) line["skipped"] = true;
  if (record.validation_loss) line["validation"] = record.validation;
  if (!record.expert_vitality.is_null()) line["expert_vitality"] = record.expert_vitality;
  if (!record.expert_load.empty()) line["expert_load"] = record.expert_load;
  if (!record.attention_expert_load.empty()) line["attention_expert_load"] = record.attention_expert_load;
  return line;
}

std::map<std::string, double> values_of(const StepRecord& record) {
  std::map<std::string, double> values = plain_values(record);
  values["tokens"] = static_cast<double>(record.tokens);
  for (const auto& [domain, loss] : record.validation) values["validation_loss." + domain] = loss;
  return values;
}

}  // namespace moe
