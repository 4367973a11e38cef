#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// A tensor that is made of pieces of others: how stock layouts store experts (model/stock), how a conversion cuts them
/// out of a dense FFN (convert/layer_plan.h), and how an export puts them back (src/export). It is put together by
/// checkpoint/tensor_assembly.h, which also finds a piece again in what was put together. No Torch.
namespace moe {

/// Rows or columns by number, shared by the pieces that take the same ones.
using IndexList = std::shared_ptr<const std::vector<int32_t>>;

inline IndexList index_list(std::vector<int32_t> indices) {
  return std::make_shared<const std::vector<int32_t>>(std::move(indices));
}

/// Along `dim`, for the i-th row (dim 0) or column (1) that is taken of the source, with `target` standing for
/// target[index] where there is an `index`:
///
///   target[place(i)] = factor * source[taken ? taken[i] : i],   place(i) = placed ? placed[i] : start + i
///
/// The other dimension begins at 0. A vector has rows only.
struct TensorPiece {
  std::string source;  ///< name of a tensor of the model
  int64_t index = -1;  ///< of the target's first dimension; -1: the target has no such
  int64_t start = 0;
  double factor = 1;
  int64_t dim = 0;
  IndexList taken{};   ///< null: all of the source
  IndexList placed{};  ///< null: one after the other
  int64_t model = 0;   ///< which of several source models
  bool adds = false;   ///< to what earlier pieces put there, as averages do
};

/// A tensor and its pieces; `fill` where none lies.
struct PiecedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<TensorPiece> pieces{};
  double fill = 0;
};

}  // namespace moe
