#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "model/stock/stock_layout.h"

namespace moe {

/// One of our tensors within a tensor of the export: factor * native, at a place (StockPiece) or, where `neurons` is
/// defined, at those rows (`neuron_dim` 0) or columns (1).
struct ExportPiece {
  StockPiece place;
  at::Tensor neurons;  ///< int64
  int64_t neuron_dim = 0;
};

/// A tensor of the export; `fill` where no piece lies.
struct ExportTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<ExportPiece> pieces;
  double fill = 0;
};

/// Whether values can be multiplied by it without rounding.
bool is_power_of_two(double factor);

/// As the stock layouts describe it.
ExportTensor export_tensor(const StockTensor& tensor);

/// Puts tensors of the export together from those of a model, one at a time, and releases what it has read.
class TensorAssembly {
 public:
  explicit TensorAssembly(const ModelDirectory& source) : source_(source) {}

  /// Of `dtype`; a view of the mapped source where that is what it is (release it when it has been used). Products are
  /// formed in float64 and rounded once. Throws Corruption for values of the source that are not finite,
  /// InvalidArgument where a value is too large for `dtype`.
  at::Tensor assemble(const ExportTensor& tensor, at::ScalarType dtype);

  /// Largest |written - exact| / |exact| so far, over all values.
  double max_relative_rounding() const { return max_relative_rounding_; }

 private:
  void put(const at::Tensor& native, double factor, at::Tensor into);

  const ModelDirectory& source_;
  double max_relative_rounding_ = 0;
};

}  // namespace moe
