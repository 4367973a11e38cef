#pragma once

#include "common/registry.h"
#include "convert/conversion_method.h"

namespace moe {

/// THE list of conversion methods. docs/adding.md shows how to add one.
const Registry<ConversionMethod>& conversion_methods();

}  // namespace moe
