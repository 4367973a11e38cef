#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "checkpoint/model_directory.h"
#include "common/peak_memory.h"
#include "convert/converter.h"
#include "model/model_config.h"
#include "runtime/opened_model.h"
#include "worker/job_context.h"
#include "worker/receipt_metrics.h"

namespace moe {
namespace {

/// Of the rank that had most; nothing where one cannot tell.
std::optional<double> peak_of_ranks(const PeakMemory& memory, Communicator& world) {
  const at::Tensor mine = at::full({1}, memory.bytes().value_or(std::numeric_limits<double>::quiet_NaN()), at::kDouble);
  const auto peak = world.all_gather(mine, "peak memory").max().item<double>();  // NaN if any is
  return std::isnan(peak) ? std::nullopt : std::optional(peak);
}

}  // namespace

std::optional<JobOutcome> run_convert_job(const JobContext& context) {
  const auto begun = std::chrono::steady_clock::now();
  const PeakMemory memory;
  const v1::ConvertSpec& spec = context.stage.convert();
  const std::filesystem::path input = context.model_path(spec.input());
  const OpenedModel source = open_model(input, text_of_job(spec.calibration().template_()), context.world);
  const ConvertRequest request{.spec = spec,
                               .seed = context.stage.seed(),
                               .source = source.directory,
                               .text = source.text,
                               .output = context.output_path,
                               .monitor = context.monitor};
  const nlohmann::json conversion = convert_model(request, context.world);

  JobOutcome outcome;
  std::vector<double> scales;  // of the mixtures
  // Rows are of layers by their number: null and nothing where one stays dense.
  nlohmann::json scale_rows = nlohmann::json::array(), load = nlohmann::json::array();
  for (const nlohmann::json& layer : conversion["layers"]) {
    const bool is_dense = layer.contains("dense");
    if (!is_dense) scales.push_back(layer["output_scale"]);
    scale_rows.push_back(is_dense ? nlohmann::json() : layer["output_scale"]);
    load.push_back(layer.value("expert_load", nlohmann::json::array()));
  }
  if (!conversion.contains("calibration")) load.clear();
  const ParameterCount parameters = count_parameters(ModelDirectory(context.output_path).config());
  outcome.metrics = {
      {"parameters_total", static_cast<double>(parameters.total)},
      {"parameters_active", static_cast<double>(parameters.active)},
      {"mean_scale", std::accumulate(scales.begin(), scales.end(), 0.0) / static_cast<double>(scales.size())},
      {"min_scale", *std::min_element(scales.begin(), scales.end())},
      {"max_scale", *std::max_element(scales.begin(), scales.end())},
      {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count()}};
  if (const std::optional<double> peak = peak_of_ranks(memory, context.world))
    outcome.metrics["peak_memory_bytes"] = *peak;
  outcome.details = {{"output_scales", scale_rows}, {"expert_load", load}};
  if (conversion.contains("receipt")) {
    outcome.metrics.merge(receipt_metrics(conversion["receipt"]));
    outcome.details["receipt"] = conversion["receipt"];
  }
  return outcome;
}

}  // namespace moe
