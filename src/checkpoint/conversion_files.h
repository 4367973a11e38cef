#pragma once

#include <cstdint>
#include <string>

/// The files that say how a native mixture was made: the converter writes them, they travel with the model through
/// training, and the dense model is made again from them (docs/model_directory.md).
namespace moe {

/// Method, seed, digests, and per layer what calibration found.
inline constexpr char kConversionReport[] = "conversion.json";
/// Of every layer the neurons that its experts took.
inline constexpr char kConversionIndices[] = "conversion.safetensors";

/// Name in kConversionIndices of a layer's tensor: int32 [experts, width].
inline std::string conversion_indices_name(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts.neurons";
}

}  // namespace moe
