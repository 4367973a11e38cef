#pragma once

#include <map>
#include <set>
#include <string>

namespace moe {

/// Names that other modules know; this one links none of them. A list of theirs -> its names, as the checks of job
/// kinds ask for it: "methods" (src/convert/conversion_methods.cc), "method_options" ("method.option"), "router_inits",
/// "router_init_options" ("init.option"), "templates", "tasks", "analyses" (src/eval/analyses.cc), "text_analyses"
/// (those that read text), "export_formats". What stands in a list that is missing or empty is not checked.
using KnownNames = std::map<std::string, std::set<std::string>>;

}  // namespace moe
