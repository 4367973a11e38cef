#include "kernels/permute.h"

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

void check_same(const char* op, const ConstMatrixView& a, const char* a_name, const ConstMatrixView& b,
                const char* b_name, bool same_rows) {
  if (a.cols != b.cols || a.dtype != b.dtype || (same_rows && a.rows != b.rows)) {
    throw InvalidArgument(concat(op, ": ", describe(a_name, a), " and ", describe(b_name, b), " must have the same ",
                                 same_rows ? "rows, " : "", "columns and dtype"));
  }
}

void check_slots(const char* op, const int64_t* slot_rows, int64_t slots, int64_t tokens) {
  if (slots < 0) {
    throw InvalidArgument(concat(op, ": slots is ", slots, "; expected 0 or more"));
  }
  if (slot_rows == nullptr && slots > 0 && tokens > 0) {
    throw InvalidArgument(concat(op, ": slot_rows is null for ", tokens, " tokens of ", slots, " slots"));
  }
}

/// A view without data is none: all ones, or a gradient that is not wanted.
void check_weights(const char* op, const char* name, const ConstMatrixView& weights, DType rows_dtype, int64_t tokens,
                   int64_t slots) {
  if (weights.data == nullptr) {
    return;
  }
  const ConstMatrixView expected{weights.data, sum_dtype(rows_dtype), tokens, slots, slots};
  if (weights.dtype != expected.dtype || weights.rows != tokens || weights.cols != slots ||
      (tokens > 1 && weights.stride != slots)) {
    throw InvalidArgument(concat(op, ": ", describe(name, weights), " with rows ", weights.stride,
                                 " elements apart; expected ", describe(name, expected), " without gaps"));
  }
}

}  // namespace

void permute(ConstMatrixView x, const int64_t* row_tokens, MatrixView rows, Queue queue) {
  check_view("permute", "x", x);
  check_view("permute", "rows", rows);
  check_same("permute", x, "x", rows, "rows", false);
  if (rows.rows == 0) {
    return;
  }
  if (row_tokens == nullptr || x.rows == 0) {
    throw InvalidArgument(concat("permute: ", describe("rows", rows), " from ", describe("x", x),
                                 row_tokens == nullptr ? " without row_tokens" : ": there is no token to copy"));
  }
  run(&Backend::permute, "permute", {x, row_tokens, rows}, queue);
}

void unpermute(ConstMatrixView rows, const int64_t* slot_rows, int64_t slots, ConstMatrixView weights, MatrixView y,
               Queue queue) {
  check_view("unpermute", "rows", rows);
  check_view("unpermute", "y", y);
  check_same("unpermute", rows, "rows", y, "y", false);
  check_slots("unpermute", slot_rows, slots, y.rows);
  check_weights("unpermute", "weights", weights, rows.dtype, y.rows, slots);
  if (y.rows > 0) {
    run(&Backend::unpermute, "unpermute", {rows, slot_rows, slots, weights.data, y}, queue);
  }
}

void unpermute_gradient(ConstMatrixView dy, ConstMatrixView rows, const int64_t* slot_rows, int64_t slots,
                        ConstMatrixView weights, MatrixView drows, MatrixView dweights, Queue queue) {
  check_view("unpermute_gradient", "dy", dy);
  check_view("unpermute_gradient", "rows", rows);
  check_view("unpermute_gradient", "drows", drows);
  check_same("unpermute_gradient", rows, "rows", drows, "drows", true);
  check_same("unpermute_gradient", dy, "dy", rows, "rows", false);
  check_slots("unpermute_gradient", slot_rows, slots, dy.rows);
  check_weights("unpermute_gradient", "weights", weights, rows.dtype, dy.rows, slots);
  check_weights("unpermute_gradient", "dweights", dweights, rows.dtype, dy.rows, slots);
  if (dy.rows > 0 && slots > 0) {
    run(&Backend::unpermute_gradient, "unpermute_gradient",
        {dy, rows, slot_rows, slots, weights.data, drows, dweights.data}, queue);
  }
}

}  // namespace moe::kernels
