#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `independent_random`: a uniformly random partition into equal parts, independent per layer and of anything but
/// (seed, layer). An expert's neurons stay in ascending order. Source   LLaMA-MoE (arXiv:2406.16554),
/// "Independent-Random", its best construction.
ConversionMethod independent_random();

}  // namespace moe
