#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// Who gets how many rows of whom: known on both sides.
struct ExchangeCounts {
  std::vector<int64_t> send;     ///< [ranks]
  std::vector<int64_t> receive;  ///< [ranks]

  ExchangeCounts reversed() const { return {receive, send}; }
};

/// Differentiable all-to-all of several tensors with the same rows ([S, ...] each -> [N, ...] each), in the order
/// given; their gradients travel the other way in the same order. All ranks must ask for gradients or none: then each
/// of them reaches the backward exchange, also one whose tensors have no rows. `group` must outlive the graph.
std::vector<at::Tensor> exchange_rows(Communicator& group, const std::vector<at::Tensor>& tensors,
                                      const ExchangeCounts& counts, const std::string& op);

}  // namespace moe
