#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

namespace moe {

/// The Torch type of a safetensors dtype that we load ("F32", "BF16", "I32", …); nullopt for the others.
std::optional<at::ScalarType> scalar_type_of(const std::string& dtype);

/// The safetensors name of a Torch type. Throws Internal for one that we do not write.
std::string dtype_name(at::ScalarType type);

/// Whether a weight may have this type.
bool is_weight_type(at::ScalarType type);

}  // namespace moe
