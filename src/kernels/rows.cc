#include "kernels/rows.h"

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {

void swiglu(ConstMatrixView gate, ConstMatrixView up, MatrixView y, Queue queue) {
  check_view("swiglu", "gate", gate);
  check_like("swiglu", "up", up, "gate", gate);
  check_like("swiglu", "y", y, "gate", gate);
  run(&Backend::swiglu, "swiglu", {gate, up, y}, queue);
}

void swiglu_gradient(ConstMatrixView dy, ConstMatrixView gate, ConstMatrixView up, MatrixView dgate, MatrixView dup,
                     Queue queue) {
  check_view("swiglu_gradient", "gate", gate);
  check_like("swiglu_gradient", "dy", dy, "gate", gate);
  check_like("swiglu_gradient", "up", up, "gate", gate);
  check_like("swiglu_gradient", "dgate", dgate, "gate", gate);
  check_like("swiglu_gradient", "dup", dup, "gate", gate);
  run(&Backend::swiglu_gradient, "swiglu_gradient", {dy, gate, up, dgate, dup}, queue);
}

void gelu_new(ConstMatrixView x, MatrixView y, Queue queue) {
  check_view("gelu_new", "x", x);
  check_like("gelu_new", "y", y, "x", x);
  run(&Backend::gelu_new, "gelu_new", {x, y}, queue);
}

void gelu_new_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dx, Queue queue) {
  check_view("gelu_new_gradient", "x", x);
  check_like("gelu_new_gradient", "dy", dy, "x", x);
  check_like("gelu_new_gradient", "dx", dx, "x", x);
  run(&Backend::gelu_new_gradient, "gelu_new_gradient", {dy, x, dx}, queue);
}

void add_bias(ConstVectorView bias, MatrixView y, Queue queue) {
  check_view("add_bias", "y", y);
  check_vector("add_bias", "bias", bias, y.cols, y.dtype);
  run(&Backend::add_bias, "add_bias", {bias, y}, queue);
}

void sum_rows(ConstMatrixView x, VectorView sum, Queue queue) {
  check_view("sum_rows", "x", x);
  check_vector("sum_rows", "sum", sum, x.cols, x.dtype);
  run(&Backend::sum_rows, "sum_rows", {x, sum}, queue);
}

void rope(ConstMatrixView x, ConstMatrixView cos, ConstMatrixView sin, int64_t heads, int direction, MatrixView y,
          Queue queue) {
  check_view("rope", "x", x);
  check_like("rope", "y", y, "x", x);
  check_view("rope", "cos", cos);
  check_like("rope", "sin", sin, "cos", cos);
  if (heads <= 0 || x.cols % heads != 0 || cos.rows != x.rows || 2 * cos.cols > x.cols / heads ||
      cos.dtype != sum_dtype(x.dtype)) {
    throw InvalidArgument(concat("rope: ", describe("x", x), " of ", heads, " heads, ", describe("cos", cos),
                                 "; expected heads of one width, and an angle in ", dtype_name(sum_dtype(x.dtype)),
                                 " for at most each two elements of a head"));
  }
  run(&Backend::rope, "rope", {x, cos, sin, heads, direction, y}, queue);
}

void sum_of_squares(ConstVectorView x, double* sum, Queue queue) {
  check_vector("sum_of_squares", "x", x, x.size, x.dtype);
  if (sum == nullptr) throw InvalidArgument(concat("sum_of_squares: no place for the sum of ", describe("x", x)));
  run(&Backend::sum_of_squares, "sum_of_squares", {x, sum}, queue);
}

}  // namespace moe::kernels
