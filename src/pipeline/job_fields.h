#pragma once

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/problem.h"
#include "pipeline/yaml_tree.h"

/// `kind: Job` is a short form: the fields of a pipeline's one stage stand at the top level of the file. The schema
/// knows pipelines of stages alone; here the one is rewritten into the other before messages are filled.
namespace moe {

/// Keys that a stage may have at the top level: seed, gang and the kinds of job.
std::vector<std::string> job_field_names();

/// Takes these keys out of a document. What is left is read as the pipeline, and what is returned as its one stage,
/// whose paths then are those of the file ("train.steps").
YamlNode take_job_fields(YamlNode& document);

/// What a stage may have at the top level of which kind of file. `job`: what take_job_fields() returned, read.
void check_job_fields(const v1::PipelineSpec& spec, const v1::Stage& job, const SourceMap& sources, Problems& problems);

}  // namespace moe
