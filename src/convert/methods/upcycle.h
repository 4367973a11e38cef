#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `upcycle`: experts are copies of the whole FFN, so that the mixture is larger than the model it comes from. Without
/// weights or text; what option `variant` says:
///   copy      E copies as they are
///   noise     and each matrix of each copy gets normal noise, `noise` times the standard deviation of its values
///   drop      and in each copy floor(rate * F) neurons are drawn anew: gate and up rows and down columns from a normal
///             distribution with the mean and the standard deviation of the block that they replace, each matrix apart
///   granular  E / G copies, each cut into G shards: expert c * G + i is shard i. The shards of a copy share a row of
///             the router (virtual groups), so that a token takes whole copies, until training tells them apart
/// Biases stay. Random numbers depend on (seed, layer, expert, matrix, row) alone.
///
/// Scale    copy and granular are the dense function at an output scale of G with topk_norm renorm (G = 1: copy), G / k
///          with straight_through, and E G / k with raw where all rows of the router are equal; least_squares finds it.
///          It stays in output_scale: its cube root in gate, up and down is not exact for SwiGLU.
/// Source   He et al. 2024 (arXiv:2410.07524) for granular; Nakamura et al. 2025 (Drop-Upcycling), where each matrix
///          draws neurons of its own: here a neuron is drawn anew as a whole.
ConversionMethod upcycle();

}  // namespace moe
