#pragma once

#include <google/protobuf/repeated_field.h>

#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// Names of the metrics that a stage produces, as gates and reports write them after "<stage>.". Per-domain names are
/// spelt out from the stage's own data, so that a gate on a domain that nobody evaluates is found before anything runs.
/// Empty for a gate.
std::vector<std::string> metrics_of(const v1::Stage& stage);

/// Appends "<metric>.<domain>" for every source.
void add_by_domain(const std::string& metric, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
                   std::vector<std::string>& names);

}  // namespace moe
