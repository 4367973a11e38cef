#pragma once

#include <string>
#include <vector>

#include "pipeline/yaml_tree.h"

namespace moe {

/// Applies `--set path=value` to a document before it is turned into messages, so that a flag's value passes the same
/// checks as the file's. A path joins keys, items of lists by their name ("stages.stage1.train.steps") or by index from
/// 0
/// ("stages.1.train.data.0.weight"); a value is a YAML scalar, a flow list or a flow map. Keys that the file left out
/// are added; later flags win. Problems name the flag.
void apply_overrides(YamlNode& document, const std::vector<std::string>& assignments, Problems& problems);

}  // namespace moe
