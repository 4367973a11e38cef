#pragma once

#include "export/export_formats.h"

namespace moe {

/// A converted model written back as the dense model that it was made of: every neuron at the place that
/// conversion.safetensors names. Bit for bit the source before training; after it, the FFN in which every expert counts
/// with weight 1 (router and output scales are dropped).
ExportFormat dense_format();

}  // namespace moe
