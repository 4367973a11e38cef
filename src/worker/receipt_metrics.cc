#include "worker/receipt_metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "eval/load_statistics.h"

namespace moe {
namespace {

using nlohmann::json;

double number_or_nan(const json& value) {
  return value.is_number() ? value.get<double>() : std::nan("");
}

std::vector<double> of_layers(const json& layers, const char* key) {
  std::vector<double> values;
  for (const json& layer : layers) values.push_back(number_or_nan(layer[key]));
  return values;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// How the experts of one part of the layers were used. `part`: "" or "attention_".
void add_load(const json& layers, const std::string& part, Metrics& metrics) {
  std::vector<std::vector<int64_t>> load;
  for (const json& layer : layers) load.push_back(layer["expert_load"]);
  metrics["step0_" + part + "router_logit_deviation"] = mean(of_layers(layers, "router_logit_deviation"));
  metrics["step0_" + part + "load_max_over_mean"] = load_max_over_mean(load);
  metrics["step0_" + part + "load_min_over_mean"] = load_min_over_mean(load);
  metrics["step0_" + part + "dead_expert_fraction"] = dead_expert_fraction(load);
}

}  // namespace

Metrics receipt_metrics(const json& receipt) {
  const json &dense = receipt["dense"], &chosen = receipt["chosen"], &all = receipt["all"], &layers = receipt["layers"];
  Metrics metrics{{"step0_dense_loss", number_or_nan(dense["loss"])},
                  {"step0_loss", number_or_nan(chosen["loss"])},
                  {"step0_perplexity", number_or_nan(chosen["perplexity"])},
                  {"step0_kl_divergence", number_or_nan(chosen["kl_divergence"])},
                  {"step0_loss_ratio_to_dense", number_or_nan(chosen["loss"]) / number_or_nan(dense["loss"])},
                  {"step0_all_loss", number_or_nan(all["loss"])},
                  {"step0_all_perplexity", number_or_nan(all["perplexity"])},
                  {"step0_all_kl_divergence", number_or_nan(all["kl_divergence"])}};
  if (all.contains("relative_logit_difference"))
    metrics["step0_all_logit_difference"] = number_or_nan(all["relative_logit_difference"]);
  if (!layers.empty()) {
    const std::vector<double> errors = of_layers(layers, "relative_ffn_error");
    metrics["step0_ffn_error"] = *std::max_element(errors.begin(), errors.end());
    add_load(layers, "", metrics);
  }
  if (receipt.contains("attention")) {
    const json& of_attention = receipt["attention"]["layers"];
    const std::vector<double> errors = of_layers(of_attention, "relative_attention_error");
    metrics["step0_attention_error"] = *std::max_element(errors.begin(), errors.end());
    metrics["step0_attention_visible_keys"] = mean(of_layers(of_attention, "visible_keys"));
    add_load(of_attention, "attention_", metrics);
  }
  return metrics;
}

}  // namespace moe
