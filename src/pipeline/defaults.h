#pragma once

#include <google/protobuf/repeated_field.h>

#include <string>

#include "moe/v1/pipeline.pb.h"

/// Fills in what a file left out, as the comments of proto/moe/v1/job.proto say. What depends on the model
/// (sequence_length, template) stays absent: the runner settles it when it has read the model.
namespace moe {

v1::GangSpec with_defaults(const v1::GangSpec& gang, const v1::GangSpec& inherited);

/// The whole pipeline, every stage with its own gang and seed. Applying it twice changes nothing.
v1::PipelineSpec effective_spec(const v1::PipelineSpec& spec);

/// A message as JSON with the proto's field names: the same text for the same message in every run. With `stage` of an
/// effective spec it is what a stage's digest is made of.
std::string to_json(const google::protobuf::Message& message);

/// Name under which the losses of a source are reported: its `domain`, else its file's name up to the first dot.
std::string domain_of(const v1::DataSource& source);

/// For the rows of job kinds: weight, domain, and the rest of what a source may leave out.
void fill_sources(google::protobuf::RepeatedPtrField<v1::DataSource>& sources);

}  // namespace moe
