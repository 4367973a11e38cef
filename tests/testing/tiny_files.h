#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "model/model_config.h"

/// Small models and data on disk, for tests of what reads them.
namespace moe::testing {

/// A model directory of this config, filled as fill_random() does.
void write_tiny_model(const std::filesystem::path& path, const ModelConfig& config, uint64_t seed,
                      at::ScalarType dtype);

/// A conversion.safetensors that says which neurons each expert took: [layers][experts][neurons], as many of each
/// expert of a layer.
void write_neurons(const std::filesystem::path& model,
                   const std::vector<std::vector<std::vector<int32_t>>>& neurons_by_layer);

/// A JSONL file of {"ids"}: `count` documents of `shortest` to `longest` random tokens.
void write_random_documents(const std::filesystem::path& path, int64_t count, int64_t shortest, int64_t longest,
                            int64_t vocab_size, uint64_t seed);

}  // namespace moe::testing
