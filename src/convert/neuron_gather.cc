#include "convert/neuron_gather.h"

namespace moe {

void gather_columns(const at::Tensor& matrix_DN, const Split& split, std::vector<at::Tensor>& outs) {
  std::vector<IndexList> picks;
  for (const std::vector<int32_t>& neurons : split.experts) picks.push_back(index_list(neurons));
  gather_columns(matrix_DN, picks, outs);
}

MoeWeights stack_experts(const FeedForwardWeights& ffn, const Split& split) {
  const auto experts = static_cast<int64_t>(split.experts.size()),
             width = static_cast<int64_t>(split.experts.front().size());
  const int64_t hidden = ffn.up.size(1), rows = ffn.gate.defined() ? 2 * width : width;
  // Filled in place, since they are as large as the FFN.
  MoeWeights weights{.router = {},
                     .gate_up = at::empty({experts, rows, hidden}),
                     .down = at::empty({experts, hidden, width}),
                     .shared = {}};
  if (ffn.up_bias.defined()) weights.gate_up_bias = at::empty({experts, rows});
  weights.output_bias = ffn.down_bias;
  std::vector<at::Tensor> down;
  for (int64_t e = 0; e < experts; ++e) {
    // The gate's rows stand first, where there is a gate.
    const auto take = [&](const at::Tensor& from, at::Tensor& stack, int64_t first) {
      at::Tensor part = stack[e].slice(0, first, first + width);
      gather_rows(from, split.experts[e], part);
    };
    if (ffn.gate.defined()) take(ffn.gate, weights.gate_up, 0);
    take(ffn.up, weights.gate_up, rows - width);
    if (ffn.gate_bias.defined()) take(ffn.gate_bias, weights.gate_up_bias, 0);
    if (ffn.up_bias.defined()) take(ffn.up_bias, weights.gate_up_bias, rows - width);
    down.push_back(weights.down[e]);
  }
  gather_columns(ffn.down, split, down);
  return weights;
}

}  // namespace moe
