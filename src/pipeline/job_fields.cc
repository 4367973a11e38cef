#include "pipeline/job_fields.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>

#include "common/error.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {

std::vector<std::string> job_field_names() {
  std::vector<std::string> names;
  const google::protobuf::Descriptor& stage = *v1::Stage::descriptor();
  for (int i = 0; i < stage.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *stage.field(i);
    // The name is that of the pipeline, and a gate alone would have nothing to look at.
    const bool is_job = field.real_containing_oneof() == nullptr || kind_named(field.name()) != nullptr;
    if (is_job && v1::PipelineSpec::descriptor()->FindFieldByName(field.name()) == nullptr)
      names.push_back(field.name());
  }
  return names;
}

YamlNode take_job_fields(YamlNode& document) {
  const std::vector<std::string> names = job_field_names();
  YamlNode job;
  job.kind = YamlNode::Kind::kMap;
  job.where = document.where;
  const auto first = std::stable_partition(document.entries.begin(), document.entries.end(), [&](const auto& entry) {
    return std::find(names.begin(), names.end(), entry.first.scalar) == names.end();
  });
  job.entries.assign(std::make_move_iterator(first), std::make_move_iterator(document.entries.end()));
  document.entries.erase(first, document.entries.end());
  return job;
}

void check_job_fields(const v1::PipelineSpec& spec, const v1::Stage& job, const SourceMap& sources,
                      Problems& problems) {
  ProblemSink sink(sources, problems);
  const std::string kind = stage_kind(job);
  if (spec.kind() == "Job") {
    if (kind.empty()) sink.add("", concat("nothing to do; a Job needs one of ", alternatives(job_kinds().names())));
    if (!spec.stages().empty())
      sink.add("stages", "a Job has no stages; write kind: Pipeline or put the job at the top level");
  } else if (spec.kind() == "Pipeline") {
    if (!kind.empty()) sink.add(kind, "a Pipeline has its jobs under stages; move it there, or write kind: Job");
    if (job.has_seed()) sink.add("seed", "a Pipeline sets the seed in defaults or in a stage; move it");
    if (job.has_gang()) sink.add("gang", "a Pipeline sets the gang in defaults or in a stage; move it");
  }
}

}  // namespace moe
