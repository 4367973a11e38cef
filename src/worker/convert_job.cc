#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/log.h"
#include "common/peak_memory.h"
#include "convert/calibration_overlap.h"
#include "convert/converter.h"
#include "data/word_ngrams.h"
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

nlohmann::json to_json(const CalibrationOverlap& overlap) {
  nlohmann::json files = nlohmann::json::array();
  for (const CalibrationOverlap::File& file : overlap.files) {
    const nlohmann::json shared = file.shared_ngrams ? nlohmann::json(*file.shared_ngrams) : nlohmann::json();
    files.push_back({{"path", file.path}, {"shared_ngrams", shared}});
  }
  return {{"ngram_words", kNgramWords},
          {"ngrams", overlap.ngrams},
          {"shared_ngrams", overlap.shared_ngrams},
          {"share", overlap.share()},
          {"files", files}};
}

/// What the calibration text has in common with the files that the pipeline measures models on, with a warning if that
/// is anything; nothing if there is nothing to compare. Neither belongs into conversion.json: the files are no inputs
/// of the stage. Collective.
std::optional<CalibrationOverlap> overlap_of(const CalibrationText& text, const Tokenizer* tokenizer,
                                             const JobContext& context) {
  if (context.evaluation_files.empty()) return std::nullopt;
  CalibrationOverlap overlap = calibration_overlap(text, tokenizer, context.evaluation_files, context.world);
  if (overlap.ngrams == 0) return std::nullopt;
  std::string files;
  for (const CalibrationOverlap::File& file : overlap.files) {
    if (file.shared_ngrams.value_or(0) > 0)
      files += concat(files.empty() ? "" : ",", file.path, ":", *file.shared_ngrams);
  }
  if (overlap.shared_ngrams > 0) {
    log_shared_warning(concat("event=calibration_overlap share=", overlap.share(), " ngrams=", overlap.ngrams,
                              " shared=", overlap.shared_ngrams, " files=", files, " reason=\"word ", kNgramWords,
                              "-grams of the calibration text stand in files that models are evaluated on; what is "
                              "measured there is not of unseen text\""));
  }
  return overlap;
}

}  // namespace

std::optional<JobOutcome> run_convert_job(const JobContext& context) {
  const auto begun = std::chrono::steady_clock::now();
  const PeakMemory memory;
  const v1::ConvertSpec& spec = context.stage.convert();
  const std::filesystem::path input = context.model_path(spec.input());
  const OpenedModel source = open_model(input, text_of_job(spec.calibration().template_()), context.world);
  std::optional<CalibrationOverlap> overlap;
  const ConvertRequest request{.spec = spec,
                               .seed = context.stage.seed(),
                               .source = source.directory,
                               .text = source.text,
                               .output = context.output_path,
                               .monitor = context.monitor,
                               .calibrations = context.calibrations_path,
                               .text_read = [&](const CalibrationText& text) {
                                 overlap = overlap_of(text, source.text.tokenizer.get(), context);
                               }};
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
  if (overlap) {
    outcome.metrics["calibration_overlap"] = overlap->share();
    outcome.details["calibration_overlap"] = to_json(*overlap);
  }
  return outcome;
}

}  // namespace moe
