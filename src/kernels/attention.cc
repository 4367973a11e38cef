#include "kernels/attention.h"

#include <algorithm>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

void check_shape(const char* op, const AttentionShape& shape, const ConstMatrixView& q, const ConstMatrixView& k,
                 const ConstMatrixView& v, const ConstMatrixView& out, const ConstMatrixView& log_sums) {
  check_view(op, "q", q);
  check_view(op, "k", k);
  check_like(op, "v", v, "k", k);
  check_like(op, "out", out, "q", q);
  check_view(op, "log_sums", log_sums);
  const auto& [heads, kv_heads, d, cu_seqlens, window] = shape;
  if (kv_heads <= 0 || heads <= 0 || d <= 0 || heads % kv_heads != 0 || q.cols != heads * d || k.cols != kv_heads * d ||
      q.rows != k.rows || q.dtype != k.dtype || log_sums.rows != heads || log_sums.cols != q.rows ||
      (q.rows > 0 && log_sums.stride != q.rows) || log_sums.dtype != sum_dtype(q.dtype) || window < 0) {
    throw InvalidArgument(concat(op, ": ", heads, " heads of ", d, " on ", kv_heads, ", window ", window, ", of ",
                                 describe("q", q), ", ", describe("k", k), ", ", describe("log_sums", log_sums)));
  }
  if (cu_seqlens.empty() || cu_seqlens.front() != 0 || cu_seqlens.back() != q.rows ||
      !std::is_sorted(cu_seqlens.begin(), cu_seqlens.end())) {
    throw InvalidArgument(
        concat(op, ": the sequences are not the ", q.rows, " tokens: cu_seqlens must rise from 0 to ", q.rows));
  }
}

}  // namespace

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v,
                      MatrixView out, MatrixView log_sums, Queue queue) {
  check_shape("causal_attention", shape, q, k, v, out, log_sums);
  run(&Backend::attention, "causal_attention", {shape, q, k, v, out, log_sums}, queue);
}

void causal_attention_gradient(const AttentionShape& shape, ConstMatrixView dout, ConstMatrixView q, ConstMatrixView k,
                               ConstMatrixView v, ConstMatrixView out, ConstMatrixView log_sums, MatrixView dq,
                               MatrixView dk, MatrixView dv, Queue queue) {
  constexpr char kOp[] = "causal_attention_gradient";
  check_shape(kOp, shape, q, k, v, out, log_sums);
  check_like(kOp, "dout", dout, "q", q);
  check_like(kOp, "dq", dq, "q", q);
  check_like(kOp, "dk", dk, "k", k);
  check_like(kOp, "dv", dv, "k", k);
  run(&Backend::attention_gradient, kOp, {shape, dout, q, k, v, out, log_sums, dq, dk, dv}, queue);
}

}  // namespace moe::kernels
