#pragma once

#include "pipeline/known_names.h"

namespace moe {

/// Every name of this program's registries that a pipeline file may use. A gang tells them when it registers.
KnownNames known_names();

}  // namespace moe
