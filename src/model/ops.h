#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// Differentiable operations of the decoder: Torch autograd around src/kernels. Every result row depends on its own
/// input row only, bit for bit; sums over rows stand in weight gradients alone. All tensors of a call lie on one
/// device, whose kernels run on its current stream (op_queue.h). Dtypes: float, double or bfloat16, the same in all
/// arguments; in bfloat16 sums, norms and softmax are made in fp32, losses are fp32, and a result is rounded where it
/// is written (a product before its bias). T, R rows (may be 0), D hidden, I width, E experts, K slots.
namespace moe::ops {

/// Rows of weight [V, D] by their numbers, ids [T] int64 -> [T, D]. The gradient of a row sums over its tokens in fp32.
at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T);

/// y = x W^T + b. Shapes x [T, I], weight [O, I], bias [O] or undefined -> [T, O].
at::Tensor linear(const at::Tensor& x_TI, const at::Tensor& weight_OI, const at::Tensor& bias_O = {});

/// x + b. Shapes x [T, O], bias [O].
at::Tensor add_bias(const at::Tensor& x_TO, const at::Tensor& bias_O);

/// Rows of expert e times its own weight, plus its own bias: rows stand in expert order, rows_per_expert[e] of each.
/// The weight gradient is one [E, O, I] tensor, zero for an expert without rows.
///
/// Shapes   rows [R, I], weight [E, O, I], rows_per_expert [E] int64, bias [E, O] or undefined -> [R, O].
at::Tensor grouped_linear(const at::Tensor& rows_RI, const at::Tensor& weight_EOI, const at::Tensor& rows_per_expert_E,
                          const at::Tensor& bias_EO = {});

/// silu(gate) * up -> [R, I].
/// Source   Shazeer 2020, arXiv:2002.05202.
at::Tensor swiglu(const at::Tensor& gate_RI, const at::Tensor& up_RI);
/// The same from gate_up [R, 2I], the gate first.
at::Tensor swiglu(const at::Tensor& gate_up_R2I);

/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), elements of x [R, I].
/// Source   Hendrycks & Gimpel 2016, arXiv:1606.08415, in the tanh form that Hugging Face calls gelu_new.
at::Tensor gelu_new(const at::Tensor& x_RI);

/// weight * (x / sqrt(mean(x^2) + eps)), rows of x [T, D].
/// Source   Zhang & Sennrich 2019, arXiv:1910.07467.
at::Tensor rms_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps);

/// weight * ((x - mean(x)) / sqrt(variance(x) + eps)) + bias, rows of x [T, D].
/// Source   Ba et al. 2016, arXiv:1607.06450.
at::Tensor layer_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps);

/// Turns the pairs (j, j + r/2) of each head's first r elements by their angles; the others pass. x [T, heads, d]; cos,
/// sin [T, r/2].
///
/// Source   Su et al. 2021, arXiv:2104.09864, in the half-split layout of Hugging Face.
at::Tensor rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

/// Attention of each query over its own sequence up to itself, heads in groups that share keys and values. q [T, heads,
/// d], k, v [T, kv heads, d]; sequence s is the rows [cu_seqlens[s], cu_seqlens[s + 1]) -> [T, heads, d]. A result
/// depends on its own sequence alone, bit for bit. With a window, a query sees the last `window` keys only, its own
/// included.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<int64_t>& cu_seqlens, int64_t window = 0);

/// rows[r] = x[row_tokens[r]]; the gradient of a token sums over its slots. slot_rows [T, K] int64 is the inverse: the
/// row of each (token, slot), -1 for none.
at::Tensor permute(const at::Tensor& x_TD, const at::Tensor& row_tokens_R, const at::Tensor& slot_rows_TK);

/// y[t] = sum_k weights[t, k] rows[slot_rows[t, k]], in the order of k; every row must be some slot's. Differentiable
/// in rows and weights.
at::Tensor unpermute(const at::Tensor& rows_RD, const at::Tensor& slot_rows_TK, const at::Tensor& weights_TK);

/// y[t] = sum_k rows[slot_rows[t, k]], in the order of k: the mirror image of permute, with the same arguments.
at::Tensor sum_slots(const at::Tensor& rows_RD, const at::Tensor& row_tokens_R, const at::Tensor& slot_rows_TK);

/// -log softmax(x W^T + b)[label] per row, 0 where the label is -100. x [T, D], weight [V, D], labels [T] int64 in [0,
/// V), bias [V] or undefined -> [T]. Holds one [T, V] tensor from forward to backward, which may run once.
at::Tensor linear_cross_entropy(const at::Tensor& x_TD, const at::Tensor& weight_VD, const at::Tensor& labels_T,
                                const at::Tensor& bias_V = {});

}  // namespace moe::ops
