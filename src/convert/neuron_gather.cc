#include "convert/neuron_gather.h"

#include <cstring>

#include "common/error.h"

namespace moe {
namespace {

/// Rows that are read together, so that an index is loaded once for all of them.
constexpr int64_t kRows = 4;

/// out[r, i] = in[r, neurons[i]] for `Rows` rows.
template <typename Word, int64_t Rows>
void gather_block(const Word* in, int64_t in_stride, const std::vector<int32_t>& neurons, Word* out) {
  const auto count = static_cast<int64_t>(neurons.size());
  for (int64_t i = 0; i < count; ++i) {
    const Word* const from = in + neurons[i];
    for (int64_t r = 0; r < Rows; ++r) out[r * count + i] = from[r * in_stride];
  }
}

template <typename Word>
void gather(const at::Tensor& matrix, const Split& split, std::vector<at::Tensor>& outs) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const auto* const in = static_cast<const Word*>(matrix.const_data_ptr());
  for (int64_t row = 0; row < rows; row += kRows) {
    for (size_t e = 0; e < outs.size(); ++e) {
      const std::vector<int32_t>& neurons = split.experts[e];
      Word* const out = static_cast<Word*>(outs[e].mutable_data_ptr()) + row * static_cast<int64_t>(neurons.size());
      if (row + kRows <= rows) {
        gather_block<Word, kRows>(in + row * columns, columns, neurons, out);
      } else {
        for (int64_t r = row; r < rows; ++r) {
          gather_block<Word, 1>(in + r * columns, columns, neurons,
                                out + (r - row) * static_cast<int64_t>(neurons.size()));
        }
      }
    }
  }
}

void check(const at::Tensor& matrix, const at::Tensor& out, int64_t rows, int64_t columns) {
  MOE_CHECK(matrix.is_contiguous() && out.is_contiguous() && out.scalar_type() == matrix.scalar_type() &&
                out.size(0) == rows && out.size(1) == columns,
            "neurons are gathered between contiguous matrices of one type, into [", rows, ", ", columns, "]");
}

}  // namespace

void gather_rows(const at::Tensor& matrix_ND, const std::vector<int32_t>& neurons, at::Tensor& out_nD) {
  if (matrix_ND.dim() == 1) {
    at::Tensor column = out_nD.unsqueeze(1);
    return gather_rows(matrix_ND.unsqueeze(1), neurons, column);
  }
  check(matrix_ND, out_nD, static_cast<int64_t>(neurons.size()), matrix_ND.size(1));
  const size_t bytes = static_cast<size_t>(matrix_ND.size(1)) * matrix_ND.element_size();
  const auto* const from = static_cast<const std::byte*>(matrix_ND.const_data_ptr());
  auto* to = static_cast<std::byte*>(out_nD.mutable_data_ptr());
  for (const int32_t neuron : neurons) {
    std::memcpy(to, from + static_cast<size_t>(neuron) * bytes, bytes);
    to += bytes;
  }
}

void gather_columns(const at::Tensor& matrix_DN, const Split& split, std::vector<at::Tensor>& outs) {
  MOE_CHECK(outs.size() == split.experts.size(), "one matrix per expert");
  for (size_t e = 0; e < outs.size(); ++e) {
    check(matrix_DN, outs[e], matrix_DN.size(0), static_cast<int64_t>(split.experts[e].size()));
  }
  switch (matrix_DN.element_size()) {
    case 2: return gather<uint16_t>(matrix_DN, split, outs);
    case 4: return gather<uint32_t>(matrix_DN, split, outs);
    case 8: return gather<uint64_t>(matrix_DN, split, outs);
    default: throw Internal(concat("neurons of ", matrix_DN.dtype().name()));
  }
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
