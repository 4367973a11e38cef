#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace moe {

/// Cosine and sine of the angle of every token's RoPE pairs. [T, rotary_dims / 2]
struct RopeAngles {
  at::Tensor cos;
  at::Tensor sin;
};

/// The frequencies f_j of the pairs in fp32, by the operations of the reference implementation: theta^(-2j/d), scaled
/// as `rope.type` says. `longest` is the number of positions of a sequence; only "dynamic" looks at it, and only beyond
/// max_positions.
///
/// Source   transformers 5, modeling_rope_utils.py; Peng et al. 2023, arXiv:2309.00071 (yarn); LLaMA 3.1
///          (llama3).
at::Tensor rope_frequencies(const RopeConfig& rope, int64_t max_positions, int64_t longest);

/// Factor of every cosine and sine: 1 but for yarn.
double rope_output_factor(const RopeConfig& rope);

/// The angles of positions, computed in fp32 and kept: memory grows with the longest position seen, in blocks of whole
/// rows, so that a position's bits depend on the position alone. Under "dynamic", a sequence that is longer than
/// max_positions has frequencies of its own and is not kept; a cached sequence keeps the keys that it turned before.
/// Not for concurrent use.
class RopeTable {
 public:
  /// `options`: type and device of a model; angles are in max(fp32, that type).
  RopeTable(const ModelConfig& config, const at::TensorOptions& options);

  /// Of the tokens of the sequences [cu_seqlens[s], cu_seqlens[s + 1]), each of which goes on from first_positions[s];
  /// none given: from 0. Both stand on the host, so that no device is read to know how far the table must reach.
  RopeAngles angles(const std::vector<int64_t>& cu_seqlens, const std::vector<int64_t>& first_positions = {});

 private:
  RopeAngles compute(const at::Tensor& positions, const at::Tensor& frequencies) const;
  void grow(int64_t positions);

  RopeConfig rope_;
  int64_t max_positions_;
  at::TensorOptions options_;
  at::Tensor frequencies_;
  RopeAngles table_;
};

}  // namespace moe
