#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/model_config.h"
#include "model/moe/moe_layer.h"

// L layers that are mixtures, E experts.
namespace moe {

/// The counts of this rank's tokens, one row a mixture, in order. [L, E]
at::Tensor stacked_counts(const std::vector<RouterStats>& router);

/// Such counts by [layer][expert], on the host: row l is of layer l of the model, and empty where that is dense. Empty
/// where there are no counts.
std::vector<std::vector<int64_t>> load_by_layer(const ModelConfig& config, const at::Tensor& counts_LE);

/// The same of attention's experts that may be chosen, of which counts have one row a layer that has any.
std::vector<std::vector<int64_t>> attention_load_by_layer(const ModelConfig& config, const at::Tensor& counts_LE);

}  // namespace moe
