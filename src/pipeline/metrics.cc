#include "pipeline/metrics.h"

#include "pipeline/defaults.h"

namespace moe {
namespace {

using google::protobuf::RepeatedPtrField;

// What the job kinds report whatever their data.
const std::vector<std::string> kConvertMetrics{"parameters_total", "parameters_active", "mean_scale", "min_scale",
                                               "max_scale"};
const std::vector<std::string> kTrainMetrics{
    "loss",  "loss_first", "balance_loss",     "dead_expert_fraction", "load_max_over_mean",
    "steps", "tokens",     "tokens_per_second"};
const std::vector<std::string> kEvaluateMetrics{"loss", "perplexity", "tokens", "dead_expert_fraction",
                                                "load_max_over_mean"};
const std::vector<std::string> kExportMetrics{"bytes", "shards", "padded_size_ratio", "max_relative_rounding"};

void add_by_domain(const std::string& metric, const RepeatedPtrField<v1::DataSource>& sources,
                   std::vector<std::string>& names) {
  names.push_back(metric);
  for (const v1::DataSource& source : sources) names.push_back(metric + "." + domain_of(source));
}

}  // namespace

std::vector<std::string> metrics_of(const v1::Stage& stage) {
  std::vector<std::string> names;
  switch (stage.kind_case()) {
    case v1::Stage::kConvert: return kConvertMetrics;
    case v1::Stage::kTrain:
      names = kTrainMetrics;
      if (!stage.train().validation().empty()) add_by_domain("validation_loss", stage.train().validation(), names);
      return names;
    case v1::Stage::kEvaluate:
      names = kEvaluateMetrics;
      for (const char* metric : {"loss", "perplexity", "tokens"}) {
        for (const v1::DataSource& source : stage.evaluate().data())
          names.push_back(std::string(metric) + "." + domain_of(source));
      }
      if (stage.evaluate().has_baseline()) {
        for (const char* metric : {"baseline_loss", "loss_ratio_to_baseline"}) {
          add_by_domain(metric, stage.evaluate().data(), names);
        }
        for (const v1::DataSource& source : stage.evaluate().data()) {
          names.push_back("baseline_perplexity." + domain_of(source));
        }
      }
      return names;
    case v1::Stage::kExport: return kExportMetrics;
    case v1::Stage::kGate:
    case v1::Stage::KIND_NOT_SET: break;
  }
  return names;
}

}  // namespace moe
