#pragma once

#include <string>
#include <vector>

#include "pipeline/problem.h"
#include "pipeline/yaml_tree.h"

namespace google::protobuf {
class Message;
}

namespace moe {

/// Fills `message` from a document by reflection: keys are the proto's field names (the JSON name, where the schema
/// gives one, is accepted too). Every unknown or duplicate key, wrong type, value out of range and second member of a
/// oneof is added to `problems`; what is right is set all the same, so that later checks see as much as possible.
/// `sources` learns where each field was written. `also_known`: keys that may stand beside those of the message and
/// were taken out of `node`, for what a mistyped key may have meant.
void yaml_to_proto(const YamlNode& node, google::protobuf::Message& message, SourceMap& sources, Problems& problems,
                   const std::vector<std::string>& also_known = {});

}  // namespace moe
