#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/parameters.h"

namespace moe {

/// What this rank holds of a logical tensor, for checkpoints: all of it, or a run of its elements. A training's state
/// is a list of these: weights under their own names, Adam's moments under them with ".m" and ".v" for the weights that
/// have moments, whole or sharded, and whatever tensors a recipe has of its own.
struct TensorRange {
  std::string name;            ///< of the logical tensor, in the same words on every rank
  std::vector<int64_t> shape;  ///< of the whole logical tensor
  int64_t first = 0;           ///< element that `part` begins with, counted through the whole tensor row by row
  at::Tensor part;             ///< saved from and loaded into: of `shape` if it is all of it, else [elements]
  bool is_written = true;      ///< this rank saves it: true on one of those that hold the same elements

  bool is_whole() const;
};

/// Elements of a tensor of this shape.
int64_t elements_of(const std::vector<int64_t>& shape);

/// All of a logical tensor, which lies in `tensor`.
TensorRange whole_tensor(std::string name, const at::Tensor& tensor, bool is_written);

/// The logical tensors that `storage`, laid out as `parameter.value`, holds, each under its name with `suffix`.
void append_logical(std::vector<TensorRange>& ranges, const Parameter& parameter, const at::Tensor& storage,
                    const std::string& suffix, bool is_written);

}  // namespace moe
