#pragma once

/// What the files of weights in a model directory are called, here and in transformers: for who reads them, who writes
/// them, and who tells them from what stands beside them. Names alone, so that anybody may include it.
namespace moe {

inline constexpr char kSingleWeights[] = "model.safetensors";
/// Of several shards: which tensor is in which.
inline constexpr char kWeightsIndex[] = "model.safetensors.index.json";
/// A shard is `model-00001-of-00002.safetensors`.
inline constexpr char kShardPrefix[] = "model-";
inline constexpr char kWeightsExtension[] = ".safetensors";

}  // namespace moe
