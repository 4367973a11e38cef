#include "pipeline/kinds/kinds.h"

#include "pipeline/spec.h"

namespace moe {

// One file each: convert.cc, train.cc, evaluate.cc, export.cc, analyze.cc.
JobKind convert_kind();
JobKind train_kind();
JobKind evaluate_kind();
JobKind export_kind();
JobKind analyze_kind();

const Registry<JobKind>& job_kinds() {
  static const Registry<JobKind> kinds("job kind", {
                                                       {"convert", convert_kind()},
                                                       {"train", train_kind()},
                                                       {"evaluate", evaluate_kind()},
                                                       {"export", export_kind()},
                                                       {"analyze", analyze_kind()},
                                                   });
  return kinds;
}

const JobKind* kind_named(std::string_view name) {
  return job_kinds().contains(name) ? &job_kinds().at(name) : nullptr;
}

const JobKind* kind_of(const v1::Stage& stage) {
  return kind_named(stage_kind(stage));
}

bool makes_model(const v1::Stage& stage) {
  const JobKind* kind = kind_of(stage);
  return kind != nullptr && is_model(kind->leaves);
}

bool is_model(Artifact artifact) {
  return artifact == Artifact::kConvertedModel || artifact == Artifact::kTrainedModel ||
         artifact == Artifact::kExportedModel;
}

const char* to_string(Artifact artifact) {
  if (is_model(artifact)) return "model";
  return artifact == Artifact::kEvaluation ? "evaluation" : "report";
}

}  // namespace moe
