#include "kernels/matmul.h"

#include <algorithm>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// A matrix as an operand of a product, as it lies or transposed. A single row may come with any stride.
Product::Operand operand(const ConstMatrixView& view, bool transposed) {
  const int64_t stride = std::max<int64_t>(view.stride, std::max<int64_t>(view.cols, 1));
  return transposed ? Product::Operand{view.data, 1, stride} : Product::Operand{view.data, stride, 1};
}

void check_linear(const char* op, const ConstMatrixView& in, const ConstMatrixView& weight, const ConstMatrixView& out,
                  const char* in_name, const char* weight_name, const char* out_name) {
  check_view(op, in_name, in);
  check_view(op, weight_name, weight);
  check_view(op, out_name, out);
  // `in` and `out` are the layer's input [T, I] and output [T, O] side, whichever is being computed.
  if (in.rows != out.rows || in.cols != weight.cols || out.cols != weight.rows || in.dtype != weight.dtype ||
      out.dtype != weight.dtype) {
    throw InvalidArgument(concat(op, ": shapes disagree: ", describe(in_name, in), ", ", describe(weight_name, weight),
                                 ", ", describe(out_name, out), "; expected [T, I], [O, I], [T, O] of one dtype"));
  }
}

void multiply(const Product& product, const Queue& queue) {
  if (product.m > 0 && product.n > 0) {
    run(&Backend::matmul, "matmul", product, queue);
  }
}

}  // namespace

void linear_forward(ConstMatrixView x, ConstMatrixView weight, MatrixView y, Queue queue) {
  check_linear("linear_forward", x, weight, y, "x", "weight", "y");
  multiply({x.dtype, x.rows, weight.rows, x.cols, operand(x, false), operand(weight, true), y.data,
            std::max(y.stride, y.cols)},
           queue);
}

void linear_input_gradient(ConstMatrixView dy, ConstMatrixView weight, MatrixView dx, Queue queue) {
  check_linear("linear_input_gradient", dx, weight, dy, "dx", "weight", "dy");
  multiply({dy.dtype, dy.rows, weight.cols, dy.cols, operand(dy, false), operand(weight, false), dx.data,
            std::max(dx.stride, dx.cols)},
           queue);
}

void linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweight, Queue queue) {
  check_linear("linear_weight_gradient", x, dweight, dy, "x", "dweight", "dy");
  multiply({dy.dtype, dy.cols, x.cols, dy.rows, operand(dy, true), operand(x, false), dweight.data,
            std::max(dweight.stride, dweight.cols)},
           queue);
}

}  // namespace moe::kernels
