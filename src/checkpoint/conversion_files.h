#pragma once

#include <cstdint>
#include <string>

/// The files that say how a native mixture was made: the converter writes them, they travel with the model through
/// training, and the dense model is made again from them (docs/model_directory.md).
namespace moe {

/// Method, seed, digests, and per layer what calibration found.
inline constexpr char kConversionReport[] = "conversion.json";
/// Of every layer the neurons, and the heads of attention, that its experts took.
inline constexpr char kConversionIndices[] = "conversion.safetensors";

/// Names in kConversionIndices of a layer's tensors: int32 [experts, width], where experts differ in width that of the
/// widest with -1 after the neurons of the others; and, of a layer with a shared part, int32 [width]. A layer whose
/// experts are more than copies of neurons (scaled, averaged, made anew, of another model) has none.
inline std::string conversion_indices_name(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts.neurons";
}
inline std::string shared_indices_name(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.shared_expert.neurons";
}

/// Names of a layer's tensors there whose attention is experts: int32 [experts, heads of an expert], numbers of heads
/// of the dense layer in the order that the expert has them in.
inline std::string query_heads_name(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".self_attn.experts.query_heads";
}
inline std::string kv_heads_name(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".self_attn.experts.kv_heads";
}

}  // namespace moe
