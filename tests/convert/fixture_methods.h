#pragma once

#include "common/registry.h"
#include "convert/conversion_method.h"

namespace moe::testing {

/// Conversion methods that do what those of src/convert do not: the ways in which a plan can be made. Like those, each
/// is a function and a line.
///   shared_uneven  a shared part of the neurons that are most active, the others in experts that grow in width; needs
///                  activations, widths known before
///   by_importance  a shared part and a partition by importance per group of documents; needs gradients, and widths
///                  are known when all layers are planned
///   blend          neurons of two models averaged, scaled and made anew, a router and a norm of its own; no partition
const Registry<ConversionMethod>& fixture_methods();

}  // namespace moe::testing
