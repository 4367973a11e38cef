#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "checkpoint/model_directory.h"
#include "convert/placed_specs.h"
#include "model/layer.h"

namespace moe {

/// A dense model read part by part in the type that calibration computes in. Throws what ModelDirectory throws.
class DenseSource {
 public:
  explicit DenseSource(const ModelDirectory& directory, at::ScalarType dtype = at::kFloat);

  const ModelConfig& config() const { return directory_.config(); }
  const ModelDirectory& directory() const { return directory_; }
  at::ScalarType dtype() const { return dtype_; }

  at::Tensor tensor(const std::string& name) const;
  /// [V, D]
  at::Tensor embedding() const;
  Layer layer(int64_t layer) const;
  /// What turns the last layer's stream into logits.
  struct Head {
    NormWeights norm;
    at::Tensor weight_VD;
    at::Tensor bias_V{};  ///< undefined where there is none
  };
  Head head() const;

  /// None of the layer's pages need to stay.
  void release_layer(int64_t layer) const;
  /// The same of what stands before and after the layers: embedding, last norm and head.
  void release_ends() const;

 private:
  const ModelDirectory& directory_;
  at::ScalarType dtype_;
  PlacedSpecs specs_;
};

}  // namespace moe
