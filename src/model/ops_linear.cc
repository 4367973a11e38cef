#include <algorithm>

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

/// Calls product(rows of expert e in `rows`, e, where they start) for every expert.
template <typename Product>
void for_each_expert(const std::vector<int64_t>& rows_per_expert, const Product& product) {
  int64_t first = 0;
  for (size_t expert = 0; expert < rows_per_expert.size(); ++expert) {
    product(static_cast<int64_t>(expert), first, rows_per_expert[expert]);
    first += rows_per_expert[expert];
  }
}

class GroupedLinearFunction : public torch::autograd::Function<GroupedLinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_in, const at::Tensor& weight_in,
                            const std::vector<int64_t>& rows_per_expert) {
    const at::Tensor rows = row_major(rows_in), weight = weight_in.contiguous();
    at::Tensor y = at::empty({rows.size(0), weight.size(1)}, rows.options());
    for_each_expert(rows_per_expert, [&](int64_t expert, int64_t first, int64_t count) {
      if (count == 0) return;
      at::Tensor out = y.narrow(0, first, count);
      kernels::linear_forward(const_view(rows.narrow(0, first, count)), const_view(weight.select(0, expert)), mutable_view(out));
    });
    context->save_for_backward({rows, weight});
    context->saved_data["rows_per_expert"] = rows_per_expert;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &weight = saved[1], dy = row_major(gradients[0]);
    const std::vector<int64_t> rows_per_expert = context->saved_data["rows_per_expert"].toIntVector();
    at::Tensor drows, dweight;
    if (context->needs_input_grad(0)) drows = at::empty(rows.sizes(), rows.options());
    if (context->needs_input_grad(1)) dweight = at::empty(weight.sizes(), weight.options());
    for_each_expert(rows_per_expert, [&](int64_t expert, int64_t first, int64_t count) {
      const at::Tensor dy_e = dy.narrow(0, first, count);
      if (drows.defined() && count > 0) {
        at::Tensor out = drows.narrow(0, first, count);
        kernels::linear_input_gradient(const_view(dy_e), const_view(weight.select(0, expert)), mutable_view(out));
      }
      if (dweight.defined()) {
        at::Tensor out = dweight.select(0, expert);
        kernels::linear_weight_gradient(const_view(dy_e), const_view(rows.narrow(0, first, count)), mutable_view(out));
      }
    });
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
