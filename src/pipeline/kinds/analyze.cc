#include "pipeline/kinds/kinds.h"

/// analyze: sizes and changes of a model's weights.
namespace moe {

JobKind analyze_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kReport,
      .models = {"input", "baseline"},
      .data = {},
      .effects = {{"AnalyzeSpec.input", kContents}, {"AnalyzeSpec.baseline", kContents}},
      .fill = [](v1::Stage&) {},
      .check = [](const v1::Stage&, const FieldChecks&) {},
      .plan =
          [](const v1::Stage& stage) {
            const v1::AnalyzeSpec& spec = stage.analyze();
            return spec.has_baseline() ? "weights, and their change from " + spec.baseline() : "weights";
          },
      // A few numbers a tensor.
      .room = 0.01,
  };
}

}  // namespace moe
