#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/yaml_tree.h"

/// Settings that stood elsewhere in an older schema, as the row of their kind lists them (kinds/kinds.h). The author of
/// a file is told where each went; what older programs wrote themselves, records and stores, is read as it was meant.
namespace moe {

/// Adds a problem for every such key of a document, `job` being what take_job_fields() took out of it. The values are
/// put where they belong, so that later checks miss nothing that was written.
void move_keys(YamlNode& document, YamlNode& job, Problems& problems);

/// Puts the settings of a stage in an older record where they belong. Returns the old and the new path of each:
/// "convert.experts" -> "convert.ffn.experts".
std::map<std::string, std::string> move_keys(nlohmann::json& stage);

/// The same for a message that an older program serialised.
void move_fields(v1::Stage& stage);

}  // namespace moe
