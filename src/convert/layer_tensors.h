#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoint/safetensors.h"
#include "convert/conversion.h"
#include "convert/planned_layer.h"
#include "model/parameters.h"
#include "model/tensor_specs.h"

namespace moe {

/// The tensors of one converted layer as they are written, one by one: what its plans make of the dense models, or its
/// reconstruction (convert/reconstruction.h) of that, its routers, and what the source has; then aligned
/// (convert/channel_alignment.h). Each is asked for once; the tensors of an expert follow one another. The conversion
/// outlives this.
class LayerTensors {
 public:
  /// Of a layer that is planned.
  LayerTensors(const Conversion& conversion, int64_t layer);

  /// Rounded once.
  at::Tensor tensor(const TensorSpec& spec, at::ScalarType type);

 private:
  at::Tensor unaligned(const TensorSpec& spec, at::ScalarType type);

  const Conversion& conversion_;
  const ConvertedLayer& made_;
  const PlannedLayer::Models models_;  ///< as they are stored, each tensor read (and checked) once
  std::optional<SafetensorsFile> reconstructed_;
  std::vector<at::Tensor> downs_;  ///< [experts], once the first was asked for: columns of one matrix
};

/// The layer as it lies in memory, in float; `mixture_alone`: what mixture_of() takes of it.
std::vector<Parameter> layer_parameters(const Conversion& conversion, int64_t layer, bool mixture_alone);

}  // namespace moe
