#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/log.h"
#include "common/peak_memory.h"
#include "common/work_monitor.h"
#include "convert/calibration_overlap.h"
#include "convert/converter.h"
#include "convert/request_check.h"
#include "data/word_ngrams.h"
#include "model/model_config.h"
#include "runtime/opened_model.h"
#include "worker/jobs.h"
#include "worker/receipt_metrics.h"
#include "worker/reconstruction_tasks.h"

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

/// Scales and calibration load of what became experts in the layers: of the FFN ("") or of the attention
/// ("attention_"). Rows are of layers by their number: null and nothing where the part stays dense.
void add_part(const nlohmann::json& layers, const std::string& part, bool has_text, JobOutcome& outcome) {
  std::vector<double> scales;
  nlohmann::json scale_rows = nlohmann::json::array(), load = nlohmann::json::array();
  for (const nlohmann::json& layer : layers) {
    const nlohmann::json experts = part.empty() ? layer : layer.value("attention", nlohmann::json::object());
    if (experts.contains("output_scale")) scales.push_back(experts["output_scale"]);
    scale_rows.push_back(experts.value("output_scale", nlohmann::json()));
    load.push_back(experts.value("expert_load", nlohmann::json::array()));
  }
  if (!has_text) load.clear();
  outcome.metrics[part + "mean_scale"] =
      std::accumulate(scales.begin(), scales.end(), 0.0) / static_cast<double>(scales.size());
  outcome.metrics[part + "min_scale"] = *std::min_element(scales.begin(), scales.end());
  outcome.metrics[part + "max_scale"] = *std::max_element(scales.begin(), scales.end());
  outcome.details[part + "output_scales"] = scale_rows;
  outcome.details[part + "expert_load"] = load;
}

std::optional<JobOutcome> run_convert_job(const JobContext& context) {
  const auto begun = std::chrono::steady_clock::now();
  const PeakMemory memory;
  const v1::ConvertSpec& spec = context.stage.convert();
  const std::filesystem::path input = context.model_path(spec.input());
  const OpenedModel source = open_model(input, text_of_job(spec.calibration().template_()), context.world);
  std::deque<OpenedModel> others;
  for (const std::string& other : spec.ffn().others())
    others.push_back(open_model(context.model_path(other), {}, context.world));
  std::optional<CalibrationOverlap> overlap;
  std::optional<KeptLayers> kept;
  if (spec.has_reconstruction()) kept.emplace(context);
  ConvertRequest request{
      .spec = spec,
      .seed = context.stage.seed(),
      .source = source.directory,
      .text = source.text,
      .output = context.output_path,
      .monitor = context.monitor,
      .calibrations = context.calibrations_path,
      .text_read =
          [&](const CalibrationText& text) { overlap = overlap_of(text, source.text.tokenizer.get(), context); },
      .train_layer = [&](const LayerTask& task) { return train_task(task, context); },
      .kept_layers = kept ? kept->folder() : std::filesystem::path()};
  for (const OpenedModel& other : others) request.others.push_back(&other.directory);
  const nlohmann::json conversion = convert_model(request, context.world);
  if (kept) kept->forget();

  JobOutcome outcome;
  const bool has_text = conversion.contains("calibration");
  const ParameterCount parameters = count_parameters(ModelDirectory(context.output_path).config());
  outcome.metrics = {{"parameters_total", static_cast<double>(parameters.total)},
                     {"parameters_active", static_cast<double>(parameters.active)},
                     {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count()}};
  if (const std::optional<double> peak = peak_of_ranks(memory, context.world))
    outcome.metrics["peak_memory_bytes"] = *peak;
  if (spec.has_ffn()) add_part(conversion["layers"], "", has_text, outcome);
  if (spec.has_attention()) add_part(conversion["layers"], "attention_", has_text, outcome);
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

void check_convert_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  const v1::ConvertSpec& spec = stage.convert();
  const OpenedModel* const source = models.model(spec.input());
  if (source == nullptr) return;
  ConvertRequest request{
      .spec = spec, .source = source->directory, .text = source->text, .output = {}, .monitor = unwatched()};
  for (const OpenedModel* other : models.models({spec.ffn().others().begin(), spec.ffn().others().end()}))
    request.others.push_back(&other->directory);
  for (const RequestProblem& problem : request_problems(request)) checks.add(problem.field, problem.message);
}

}  // namespace

JobRunner convert_runner() {
  return {.run = run_convert_job, .check_models = check_convert_models};
}

}  // namespace moe
