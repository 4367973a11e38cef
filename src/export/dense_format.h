#pragma once

#include "export/export_formats.h"

namespace moe {

/// A converted model written back as the dense model that it was made of: every neuron at the place that
/// conversion.safetensors names. Bit for bit the source before training; after it, the FFN in which every expert counts
/// with weight 1 (router and output scales are dropped). A mixture of one expert that is a part of the FFN is written
/// as the narrower dense model that it is, with its output scales.
ExportFormat dense_format();

}  // namespace moe
