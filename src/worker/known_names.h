#pragma once

#include "pipeline/spec.h"

namespace moe {

/// Every name of this program's registries that a pipeline file may use.
KnownNames known_names();

}  // namespace moe
