#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// A matrix as an operand of a product, as it lies or transposed. A single row may come with any stride.
Product::Operand operand(const ConstMatrixView& view, bool transposed) {
  const int64_t stride = std::max<int64_t>(view.stride, std::max<int64_t>(view.cols, 1));
  return transposed ? Product::Operand{view.data, 1, stride} : Product::Operand{view.data, stride, 1};
}

void multiply(const Product& product, const Queue& queue) {
  if (product.m > 0 && product.n > 0) {
    run(&Backend::matmul, "matmul", product, queue);
  }
}

}  // namespace

void linear_forward(ConstMatrixView x, ConstMatrixView weight, MatrixView y, Queue queue) {
  check_linear("linear_forward", {"x", x}, {"weight", weight}, {"y", y});
  multiply({x.dtype, x.rows, weight.rows, x.cols, operand(x, false), operand(weight, true), y.data,
            std::max(y.stride, y.cols)},
           queue);
}

void linear_input_gradient(ConstMatrixView dy, ConstMatrixView weight, MatrixView dx, Queue queue) {
  check_linear("linear_input_gradient", {"dx", dx}, {"weight", weight}, {"dy", dy});
  multiply({dy.dtype, dy.rows, weight.cols, dy.cols, operand(dy, false), operand(weight, false), dx.data,
            std::max(dx.stride, dx.cols)},
           queue);
}

void linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweight, Queue queue) {
  check_linear("linear_weight_gradient", {"x", x}, {"dweight", dweight}, {"dy", dy});
  multiply({dy.dtype, dy.cols, x.cols, dy.rows, operand(dy, true), operand(x, false), dweight.data,
            std::max(dweight.stride, dweight.cols)},
           queue);
}

}  // namespace moe::kernels
