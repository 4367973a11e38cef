#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/loaded_model.h"

/// What a model thinks of given tokens, in one process (the model's dispatcher is local). One sequence at a time.
namespace moe {

/// Natural logarithm of p(ids[i] | ids[0..i)) for each i from 1, in fp32; empty for fewer than two ids.
std::vector<float> log_probabilities(const LoadedModel& model, const std::vector<int32_t>& ids);

/// Logits after each of `ids_T` (int64). [T, V]
at::Tensor sequence_logits(const LoadedModel& model, const at::Tensor& ids_T);

/// Throws InvalidArgument that begins with `where` if the model has no positions for that many ids to be scored: the
/// last one is only predicted.
void check_scored_length(const ModelConfig& config, size_t ids, const std::string& where);

}  // namespace moe
