#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "model/tensor_piece.h"

/// Puts tensors together from their pieces (model/tensor_piece.h), and finds a piece in what was put together. The one
/// place where that description becomes bytes: used to read stock layouts, to convert and to export.
namespace moe {

/// Whether values can be multiplied by it without rounding.
bool is_power_of_two(double factor);

/// What a whole source (no `taken`) of this shape became in the stored target: a view of it, or a copy where the piece
/// has a factor, which is divided out again, or a `placed`.
at::Tensor find_piece(const at::Tensor& target, const TensorPiece& piece, at::IntArrayRef source_shape);

/// Makes tensors one at a time, or those of one source together. Holds nothing between calls but the rounding.
class TensorAssembly {
 public:
  struct Sources {
    /// The tensor that a piece is taken from, contiguous.
    std::function<at::Tensor(const TensorPiece&)> get;
    /// Told when a piece has been copied and its source is not needed for it any more; may be empty. Not called for a
    /// source that assemble() returned as it is.
    std::function<void(const TensorPiece&)> release{};
  };

  enum class Rounding {
    kMeasured,     ///< every rounded value is compared with the exact one, which takes several passes over it
    kNotMeasured,  ///< values of another type are cast as LibTorch does
  };

  /// `work` starts error messages.
  TensorAssembly(std::string work, Sources sources, Rounding rounding)
      : work_(std::move(work)), sources_(std::move(sources)), measures_rounding_(rounding == Rounding::kMeasured) {}

  /// Of `dtype`; the source itself where that is what it is. Bits are kept where type and factor say so; products and
  /// sums are formed in float64 and rounded once. Throws what `get` throws, InvalidArgument where a product is too
  /// large for `dtype`.
  at::Tensor assemble(const PiecedTensor& tensor, at::ScalarType dtype);

  /// The same into `out`, of the tensor's shape and of any strides.
  void assemble_into(const PiecedTensor& tensor, at::Tensor out);

  /// The same for several. Where all take columns of one source, it is read once for all of them.
  void assemble_together(const std::vector<PiecedTensor>& tensors, std::vector<at::Tensor>& outs);

  /// Largest |written - exact| / |exact| so far, over all values.
  double max_relative_rounding() const { return max_relative_rounding_; }

 private:
  /// `first` is the source of the first piece.
  void fill(const PiecedTensor& tensor, const at::Tensor& first, at::Tensor& out);
  void place(const TensorPiece& piece, const at::Tensor& source, at::Tensor& out);
  void put(const at::Tensor& values, double factor, at::Tensor into);
  void release(const TensorPiece& piece) const {
    if (sources_.release) sources_.release(piece);
  }

  std::string work_;
  Sources sources_;
  bool measures_rounding_;
  double max_relative_rounding_ = 0;
};

}  // namespace moe
