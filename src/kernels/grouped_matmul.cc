#include "kernels/grouped_matmul.h"

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// How many rows each has lies on the device: whether they are all of the rows is for its version to say.
void check_groups(const char* op, const RowGroups& groups) {
  if (groups.count <= 0 || groups.rows == nullptr) {
    throw InvalidArgument(concat(op, ": ", groups.count, " groups", groups.rows == nullptr ? " without row counts" : "",
                                 "; expected 1 or more, and the row count of each"));
  }
}

/// One row of `by_group` for each group, of the columns and dtype of `rows`.
void check_by_group(const char* op, const char* name, const ConstMatrixView& by_group, const ConstMatrixView& rows,
                    const RowGroups& groups) {
  check_groups(op, groups);
  check_view(op, name, by_group);
  check_view(op, "rows", rows);
  if (by_group.rows != groups.count || by_group.cols != rows.cols || by_group.dtype != rows.dtype) {
    throw InvalidArgument(concat(op, ": ", describe(name, by_group), " of ", groups.count, " groups of ",
                                 describe("rows", rows), "; expected a row for each group"));
  }
}

}  // namespace

void grouped_linear_forward(ConstMatrixView x, ConstMatrixView weights, MatrixView y, RowGroups groups, Queue queue) {
  check_groups("grouped_linear_forward", groups);
  check_linear("grouped_linear_forward", {"x", x}, {"weights", weights}, {"y", y}, groups.count);
  run(&Backend::grouped_linear_forward, "grouped_linear_forward", {x, weights, y, groups}, queue);
}

void grouped_linear_input_gradient(ConstMatrixView dy, ConstMatrixView weights, MatrixView dx, RowGroups groups,
                                   Queue queue) {
  check_groups("grouped_linear_input_gradient", groups);
  check_linear("grouped_linear_input_gradient", {"dx", dx}, {"weights", weights}, {"dy", dy}, groups.count);
  run(&Backend::grouped_linear_input_gradient, "grouped_linear_input_gradient", {dy, weights, dx, groups}, queue);
}

void grouped_linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweights, RowGroups groups,
                                    Queue queue) {
  check_groups("grouped_linear_weight_gradient", groups);
  check_linear("grouped_linear_weight_gradient", {"x", x}, {"dweights", dweights}, {"dy", dy}, groups.count);
  run(&Backend::grouped_linear_weight_gradient, "grouped_linear_weight_gradient", {dy, x, dweights, groups}, queue);
}

void grouped_add_bias(ConstMatrixView bias, MatrixView y, RowGroups groups, Queue queue) {
  check_by_group("grouped_add_bias", "bias", bias, y, groups);
  run(&Backend::grouped_add_bias, "grouped_add_bias", {bias, y, groups}, queue);
}

void grouped_sum_rows(ConstMatrixView x, MatrixView sums, RowGroups groups, Queue queue) {
  check_by_group("grouped_sum_rows", "sums", sums, x, groups);
  run(&Backend::grouped_sum_rows, "grouped_sum_rows", {x, sums, groups}, queue);
}

}  // namespace moe::kernels
