#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

// T tokens.
namespace moe {

/// What keeps the experts of mixtures of top-1 from taking every token that chose them; the tokens that one does not
/// take are dropped.
struct TokenLimit {
  /// Whether each of this rank's tokens is kept, bool [T] on the CPU, by the experts that they chose at the router of a
  /// layer (int64 [T], each below `num_experts`). Collective: every rank asks, of every layer, also without tokens.
  /// Empty: all are kept.
  std::function<at::Tensor(const at::Tensor& ids_T, int64_t num_experts, int64_t layer)> kept{};
  bool gives_input = false;  ///< experts give a dropped token its input, weighed and scaled as ever; false: zero
};

}  // namespace moe
