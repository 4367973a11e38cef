#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// Sums a tensor per row of text over all rows of the world, in one order whatever the number of ranks, so that the sum
/// is the same bits. The order is a binary tree over the row numbers: a pair of neighbours is added as soon as both are
/// there, so that a rank with n rows in a row holds at most 2 log2(n) tensors, and sends no more.
class RowSums {
 public:
  /// Of `row`; rows come in order. Float64, one shape.
  void add(int64_t row, at::Tensor values);
  /// The sum over all ranks, whose rows follow each other by rank. Collective; a rank may have no rows, the world has
  /// some. `shape` is that of the values.
  at::Tensor total(at::IntArrayRef shape, Communicator& world, std::string_view op);

 private:
  /// Rows [index << level, (index + 1) << level).
  struct Node {
    int64_t level;
    int64_t index;
    at::Tensor sum;
  };
  void push(Node node);

  std::vector<Node> nodes_;
};

/// The sum over all tokens of the world, one after the other: the same bits at any number of ranks. For a few numbers
/// of each token, since all of them are gathered. Collective. values_TN: float64, of this rank's tokens, which follow
/// those of the ranks before. [N]
at::Tensor sum_over_tokens(const at::Tensor& values_TN, Communicator& world, std::string_view op);

}  // namespace moe
