#include "pipeline/spec.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/error.h"
#include "pipeline/for_each.h"
#include "pipeline/job_fields.h"
#include "pipeline/moved_fields.h"
#include "pipeline/overrides.h"
#include "pipeline/validate.h"
#include "pipeline/yaml_to_proto.h"
#include "pipeline/yaml_tree.h"

namespace moe {

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
  expand_for_each(document, loaded.problems);
  apply_overrides(document, assignments, loaded.problems);
  YamlNode job_fields = take_job_fields(document);
  move_keys(document, job_fields, loaded.problems);
  yaml_to_proto(document, loaded.spec, loaded.sources, loaded.problems, job_field_names());
  if (document.kind != YamlNode::Kind::kMap) return loaded;
  v1::Stage job;
  yaml_to_proto(job_fields, job, loaded.sources, loaded.problems);
  // A field that could not be read is no missing field: its problem is already on the list, so the checks skip it.
  std::set<std::string> unreadable;
  for (const Problem& problem : loaded.problems) unreadable.insert(problem.path);
  Problems semantic;
  check_top_level(loaded.spec, loaded.sources, semantic);
  check_job_fields(loaded.spec, job, loaded.sources, semantic);
  if (loaded.spec.kind() == "Job" && loaded.spec.stages().empty()) {
    job.set_name(loaded.spec.name());
    *loaded.spec.add_stages() = std::move(job);
  }
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

const std::string& stage_name(const v1::Stage& stage) {
  return stage.has_gate() && stage.name().empty() ? stage.gate().name() : stage.name();
}

}  // namespace moe
