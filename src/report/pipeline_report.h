#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/loss_curve.h"

/// What a finished (or held, or failed) pipeline has to tell, and its two renderings: the table at the end of a
/// terminal run and the self-contained report.html. Plain data: the worker fills it from files, the coordinator from
/// its database.
namespace moe {

/// Whether experts live while they are trained: at each validation the least of those of a layer over their mean, NaN
/// where it is not finite. By part: [steps].
struct ExpertCourse {
  using Part = std::pair<int64_t, bool>;  ///< layer, and whether it is its attention
  using Rows = std::map<Part, std::vector<double>>;
  std::vector<int64_t> steps{};
  Rows least_output_share{};  ///< of its share of the layer's output
  Rows least_weight_rms{};    ///< of the root mean square of its weights
};

/// One stage or gate, in the order of the file.
struct StageReport {
  std::string name;
  /// Name of the job kind, or "gate", whether it has run or not.
  std::string kind;
  /// "SUCCEEDED", "SKIPPED", "FAILED", "PENDING", ...; for a gate "PASSED", "HELD", "APPROVED", "WARNED", "FAILED",
  /// "PENDING".
  std::string state;
  /// 0 before it is done.
  double seconds = 0;
  /// Name -> value, as gates name them.
  std::map<std::string, double> metrics;
  /// Training only.
  std::vector<LossPoint> loss_curve;
  /// Token assignments by [layer][expert], as counts or shares: each layer is normalised; a dense layer has none. Empty
  /// if not measured.
  std::vector<std::vector<double>> expert_load;
  /// Output scale per layer, NaN of a dense one; conversion only.
  std::vector<double> output_scales;
  /// What a gate found or why a stage failed; may be empty.
  std::string message;
  /// Whether it makes a mixture of a dense model, and on which tokens that was measured: "2048 held-out tokens"; empty
  /// if on none.
  bool is_conversion = false;
  std::string measured_on{};
  /// As expert_load, of attention's experts that a token may choose; and their layers' output scales.
  std::vector<std::vector<double>> attention_expert_load{};
  std::vector<double> attention_output_scales{};
  /// Of a conversion, squared error over the square of what the dense layer gives, by layer that became experts.
  std::map<int64_t, double> ffn_errors{};
  std::map<int64_t, double> attention_errors{};
  /// Of a training with validations; empty otherwise.
  ExpertCourse expert_course{};
};

struct DomainResult {
  /// Nats per token on held-out text.
  double loss = 0;
  double perplexity = 0;
};

/// What a model is on the way: the dense model that it began with, what a conversion made, or what training made.
enum class ModelRole { kOther, kDense, kConverted, kTrained };

/// One model on the way: "dense", "converted", "after stage1", ... In the order of the pipeline; the last is the
/// result. Which of them were measured is the pipeline's choice, so that texts go by `role` and never by place.
struct ModelReport {
  std::string label;
  int64_t parameters_total = 0;
  /// Parameters that one token passes through.
  int64_t parameters_active = 0;
  /// Routed experts per layer and how many a token takes; 0 for a dense model.
  int experts = 0;
  int top_k = 0;
  std::map<std::string, DomainResult> domains;
  /// As StageReport; empty for a dense model.
  std::vector<std::vector<double>> expert_load;
  ModelRole role = ModelRole::kOther;
  std::vector<std::vector<double>> attention_expert_load{};
  /// "top-4, random experts": how it was measured, where not as it is; empty otherwise.
  std::string measured_with{};
};

/// One conversion on its way through the pipeline.
struct ComparedConversion {
  /// The conversion's stage (without what all of them end in, "-convert"), followed by the last training's where it was
  /// trained in several ways; a dense model's name.
  std::string label;
  /// The label without "-s<seed>", where for_each gave the conversion its seed: those of one variant are one row. Else
  /// the label.
  std::string variant;
  /// "8, top-2", or "7 + 1 shared, top-1; attention 8, top-6"; empty for a dense model.
  std::string experts;
  int64_t parameters_active = 0;
  /// Of the dense model that it was made of; 0: not measured.
  int64_t dense_parameters = 0;
  /// Held-out loss in nats per token by domain, as converted and after the last training. Empty where not measured.
  std::map<std::string, double> converted;
  std::map<std::string, double> trained;
  /// Nats per token that the conversion moved the model from the dense one, measured with the conversion.
  std::optional<double> divergence;
  /// Least and greatest load of an expert in any layer, as load_range, of the last model that was measured.
  std::optional<std::pair<double, double>> load;
  /// Of conversion and trainings.
  double seconds = 0;
  /// What it was exported as; empty if it was not.
  std::string export_format;
};

struct PipelineReport {
  std::string name;
  /// "SUCCEEDED", "HELD", "FAILED", ...
  std::string state;
  /// Why it is held or failed; empty otherwise.
  std::string reason;
  /// As it shall be shown, for example "2026-03-01 14:05 UTC".
  std::string finished_at;
  std::vector<StageReport> stages;
  std::vector<ModelReport> models;
  /// Where several conversions are compared; else empty.
  std::vector<ComparedConversion> compared;
  /// Order of the domains in tables; those that are not named follow by name.
  std::vector<std::string> domain_order;
  /// Label -> path, for example {"model", "runs/x/stage2/output-t1"}.
  std::vector<std::pair<std::string, std::string>> paths;
  /// The effective configuration as text.
  std::string config;
};

/// One to three sentences: what became of the model.
std::string summary_text(const PipelineReport& report);

/// Summary, models by domain, expert load per layer, and paths, for a terminal of `width` columns. Ends with a newline.
std::string render_terminal(const PipelineReport& report, int width);

/// The whole report.html: one file that refers to nothing outside itself.
std::string render_html(const PipelineReport& report);

/// Domains of all models in the report's order.
std::vector<std::string> domains_of(const PipelineReport& report);

/// (converted - last) / (converted - dense) of a domain's loss: 1 when the dense loss came back. None where one of the
/// three was not measured, the last is not a trained model, or the conversion opened no gap.
std::optional<double> gap_closed(const PipelineReport& report, const std::string& domain);

/// The load of one part of the layers: &ModelReport::expert_load or &ModelReport::attention_expert_load.
using LoadOfPart = std::vector<std::vector<double>> ModelReport::*;

/// The parts that may have experts, and what tables put before "load" of each: "" and "attention ".
struct ReportedPart {
  const char* prefix;
  LoadOfPart load;
};
inline constexpr ReportedPart kReportedParts[] = {{"", &ModelReport::expert_load},
                                                  {"attention ", &ModelReport::attention_expert_load}};

/// Whether the model's load in a layer was measured; a dense layer has none.
bool has_load_of(const ModelReport& model, LoadOfPart part, size_t layer);

/// The layers in which some model's load was measured.
std::vector<size_t> layers_with_load(const PipelineReport& report, LoadOfPart part);

/// Least and greatest load of an expert in a layer, as multiples of an even share; {0, 0} if the layer saw no token.
std::pair<double, double> load_range(const std::vector<double>& layer);

}  // namespace moe
