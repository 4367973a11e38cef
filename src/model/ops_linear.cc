#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "model/kernel_views.h"
#include "model/ops.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in) {
    const at::Tensor x = row_major(x_in), weight = row_major(weight_in);
    at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    kernels::linear_forward(const_view(x), const_view(weight), mutable_view(y));
    context->save_for_backward({x, weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = row_major(gradients[0]);
    at::Tensor dx, dweight;
    if (context->needs_input_grad(0)) {
      dx = at::empty(x.sizes(), x.options());
      kernels::linear_input_gradient(const_view(dy), const_view(weight), mutable_view(dx));
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty(weight.sizes(), weight.options());
      kernels::linear_weight_gradient(const_view(dy), const_view(x), mutable_view(dweight));
    }
    return {dx, dweight};
  }
};

/// [E, O, I] as the matrix [E * O, I] that lies there.
at::Tensor stacked(const at::Tensor& weight_EOI) { return weight_EOI.view({-1, weight_EOI.size(2)}); }

class GroupedLinearFunction : public torch::autograd::Function<GroupedLinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_in, const at::Tensor& weight_in,
                            const std::vector<int64_t>& rows_per_expert) {
    const at::Tensor rows = row_major(rows_in), weight = weight_in.contiguous();
    at::Tensor y = at::empty({rows.size(0), weight.size(1)}, rows.options());
    kernels::grouped_linear_forward(const_view(rows), const_view(stacked(weight)), mutable_view(y), rows_per_expert);
    context->save_for_backward({rows, weight});
    context->saved_data["rows_per_expert"] = rows_per_expert;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &weight = saved[1], dy = row_major(gradients[0]);
    const std::vector<int64_t> rows_per_expert = context->saved_data["rows_per_expert"].toIntVector();
    at::Tensor drows, dweight;
    if (context->needs_input_grad(0)) {
      drows = at::empty(rows.sizes(), rows.options());
      kernels::grouped_linear_input_gradient(const_view(dy), const_view(stacked(weight)), mutable_view(drows), rows_per_expert);
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty(weight.sizes(), weight.options());
      at::Tensor matrix = stacked(dweight);
      kernels::grouped_linear_weight_gradient(const_view(dy), const_view(rows), mutable_view(matrix), rows_per_expert);
    }
    return {drows, dweight, at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x_TI, const at::Tensor& weight_OI) { return LinearFunction::apply(x_TI, weight_OI); }

at::Tensor grouped_linear(const at::Tensor& rows_RI, const at::Tensor& weight_EOI, const std::vector<int64_t>& rows_per_expert) {
  MOE_CHECK(static_cast<int64_t>(rows_per_expert.size()) == weight_EOI.size(0), "one row count per expert");
  return GroupedLinearFunction::apply(rows_RI, weight_EOI, rows_per_expert);
}

}  // namespace moe::ops
