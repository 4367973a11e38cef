#include "pipeline/spec.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "pipeline/overrides.h"
#include "pipeline/validate.h"
#include "pipeline/yaml_to_proto.h"
#include "pipeline/yaml_tree.h"

namespace moe {
namespace {

// Moves the job fields of the top level into one stage.
void make_one_stage(v1::PipelineSpec& spec) {
  v1::Stage stage;
  stage.set_name(spec.name());
  if (spec.has_seed()) stage.set_seed(spec.seed());
  if (spec.has_gang()) stage.mutable_gang()->Swap(spec.mutable_gang());
  switch (spec.job_case()) {
    case v1::PipelineSpec::kConvert: stage.mutable_convert()->Swap(spec.mutable_convert()); break;
    case v1::PipelineSpec::kTrain: stage.mutable_train()->Swap(spec.mutable_train()); break;
    case v1::PipelineSpec::kEvaluate: stage.mutable_evaluate()->Swap(spec.mutable_evaluate()); break;
    case v1::PipelineSpec::kExport: stage.mutable_export_()->Swap(spec.mutable_export_()); break;
    case v1::PipelineSpec::JOB_NOT_SET: break;
  }
  spec.clear_seed();
  spec.clear_gang();
  spec.clear_job();
  *spec.add_stages() = std::move(stage);
}

}  // namespace

LoadedPipeline load_pipeline(const std::string& text, const std::string& file,
                             const std::vector<std::string>& assignments, const KnownNames& known) {
  LoadedPipeline loaded{{}, SourceMap(file), {}};
  YamlNode document = parse_yaml(text, file, false, loaded.problems);
  // Without a document there is nothing to check further.
  if (!loaded.problems.empty() && document.kind == YamlNode::Kind::kNull) return loaded;
  if (document.kind == YamlNode::Kind::kNull) {
    loaded.problems.push_back({file, "", "the file is empty; it needs apiVersion, kind, name and stages"});
    return loaded;
  }
  apply_overrides(document, assignments, loaded.problems);
  yaml_to_proto(document, loaded.spec, loaded.sources, loaded.problems);
  if (document.kind != YamlNode::Kind::kMap) return loaded;
  // A field that could not be read is no missing field: its problem is already on the list, so the checks skip it.
  std::set<std::string> unreadable;
  for (const Problem& problem : loaded.problems) unreadable.insert(problem.path);
  Problems semantic;
  check_top_level(loaded.spec, loaded.sources, semantic);
  if (loaded.spec.kind() == "Job" && loaded.spec.stages().empty()) make_one_stage(loaded.spec);
  check_stages(loaded.spec, loaded.sources, known, semantic);
  for (Problem& problem : semantic) {
    const bool is_known = std::any_of(loaded.problems.begin(), loaded.problems.end(),
                                      [&](const Problem& other) { return other.text() == problem.text(); });
    if (!is_known && !unreadable.contains(problem.path)) loaded.problems.push_back(std::move(problem));
  }
  return loaded;
}

v1::PipelineSpec load_pipeline_or_throw(const std::string& text, const std::string& file,
                                        const std::vector<std::string>& assignments, const KnownNames& known) {
  LoadedPipeline loaded = load_pipeline(text, file, assignments, known);
  if (!loaded.problems.empty()) throw InvalidArgument(to_text(loaded.problems));
  return std::move(loaded.spec);
}

std::string stage_kind(const v1::Stage& stage) {
  const auto* field =
      stage.GetReflection()->GetOneofFieldDescriptor(stage, stage.GetDescriptor()->FindOneofByName("kind"));
  return field == nullptr ? "" : field->name();
}

std::vector<std::string> model_references(const v1::Stage& stage) {
  switch (stage.kind_case()) {
    case v1::Stage::kConvert: return {stage.convert().input()};
    case v1::Stage::kTrain: return {stage.train().input()};
    case v1::Stage::kEvaluate:
      if (stage.evaluate().has_baseline()) return {stage.evaluate().input(), stage.evaluate().baseline()};
      return {stage.evaluate().input()};
    case v1::Stage::kExport: return {stage.export_().input()};
    case v1::Stage::kGate:
    case v1::Stage::KIND_NOT_SET: break;
  }
  return {};
}

const std::string& stage_name(const v1::Stage& stage) {
  return stage.has_gate() && stage.name().empty() ? stage.gate().name() : stage.name();
}

}  // namespace moe
