#pragma once

#include "pipeline/known_names.h"

namespace moe {

/// Every name of this program's registries that a pipeline file may use. A gang tells them when it registers. Beside
/// the lists that fields name something of, the methods that read calibration text ("methods_with_text"), that bring a
/// router ("methods_with_router"), and that take ffn.others and ffn.prompts ("methods_with_others",
/// "methods_with_prompts").
KnownNames known_names();

}  // namespace moe
