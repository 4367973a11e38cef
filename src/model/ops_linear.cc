#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"
#include "model/ops_bias.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Whether the third input, a bias, was given and its gradient is asked.
bool needs_bias_gradient(const AutogradContext& context) {
  return context.saved_data.count(kHasBias) > 0 && context.needs_input_grad(2);
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in,
                            const std::optional<at::Tensor>& bias) {
    const kernels::Queue queue = queue_of("linear", {{"x", x_in}, {"weight", weight_in}, {"bias", or_undefined(bias)}});
    const at::Tensor x = row_major(x_in), weight = row_major(weight_in);
    at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    kernels::linear_forward(const_view(x), const_view(weight), mutable_view(y), queue);
    if (bias) {
      add_bias_to(y, *bias, queue);
      context->saved_data[kHasBias] = true;
    }
    context->save_for_backward({x, weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("linear's gradient", {{"dy", dy}, {"x", x}, {"weight", weight}});
    at::Tensor dx, dweight, dbias;
    if (context->needs_input_grad(0)) {
      dx = at::empty(x.sizes(), x.options());
      kernels::linear_input_gradient(const_view(dy), const_view(weight), mutable_view(dx), queue);
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty(weight.sizes(), weight.options());
      kernels::linear_weight_gradient(const_view(dy), const_view(x), mutable_view(dweight), queue);
    }
    if (needs_bias_gradient(*context)) dbias = bias_gradient(dy, queue);
    return {dx, dweight, dbias};
  }
};

class AddBiasFunction : public torch::autograd::Function<AddBiasFunction> {
 public:
  static at::Tensor forward(AutogradContext* /*context*/, const at::Tensor& x, const at::Tensor& bias) {
    const kernels::Queue queue = queue_of("add_bias", {{"x", x}, {"bias", bias}});
    at::Tensor y = x.clone(at::MemoryFormat::Contiguous);
    add_bias_to(y, bias, queue);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    at::Tensor dbias;
    if (context->needs_input_grad(1)) {
      dbias = bias_gradient(row_major(gradients[0]), queue_of("add_bias's gradient", {{"dy", gradients[0]}}));
    }
    return {gradients[0], dbias};
  }
};

/// [E, O, I] as the matrix [E * O, I] that lies there.
at::Tensor stacked(const at::Tensor& weight_EOI) {
  return weight_EOI.view({-1, weight_EOI.size(2)});
}

kernels::RowGroups groups_of(const at::Tensor& rows_per_expert_E) {
  return {rows_per_expert_E.const_data_ptr<int64_t>(), rows_per_expert_E.numel()};
}

class GroupedLinearFunction : public torch::autograd::Function<GroupedLinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_in, const at::Tensor& weight_in,
                            const std::optional<at::Tensor>& bias_in, const at::Tensor& rows_per_expert) {
    const kernels::Queue queue = queue_of("grouped_linear", {{"rows", rows_in},
                                                             {"weight", weight_in},
                                                             {"bias", or_undefined(bias_in)},
                                                             {"rows_per_expert", rows_per_expert}});
    const at::Tensor rows = row_major(rows_in), weight = weight_in.contiguous();
    at::Tensor y = at::empty({rows.size(0), weight.size(1)}, rows.options());
    kernels::grouped_linear_forward(const_view(rows), const_view(stacked(weight)), mutable_view(y),
                                    groups_of(rows_per_expert), queue);
    if (bias_in) {
      context->saved_data[kHasBias] = true;
      kernels::grouped_add_bias(const_view(row_major(*bias_in)), mutable_view(y), groups_of(rows_per_expert), queue);
    }
    context->save_for_backward({rows, weight, rows_per_expert});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &weight = saved[1], dy = row_major(gradients[0]);
    const kernels::Queue queue =
        queue_of("grouped_linear's gradient", {{"dy", dy}, {"rows", rows}, {"weight", weight}});
    const kernels::RowGroups groups = groups_of(saved[2]);
    at::Tensor drows, dweight, dbias;
    if (context->needs_input_grad(0)) {
      drows = at::empty(rows.sizes(), rows.options());
      kernels::grouped_linear_input_gradient(const_view(dy), const_view(stacked(weight)), mutable_view(drows), groups,
                                             queue);
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty(weight.sizes(), weight.options());
      at::Tensor matrix = stacked(dweight);
      kernels::grouped_linear_weight_gradient(const_view(dy), const_view(rows), mutable_view(matrix), groups, queue);
    }
    if (needs_bias_gradient(*context)) {
      dbias = at::empty({weight.size(0), weight.size(1)}, dy.options());
      kernels::grouped_sum_rows(const_view(dy), mutable_view(dbias), groups, queue);
    }
    return {drows, dweight, dbias, at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x_TI, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  return LinearFunction::apply(x_TI, weight_OI, if_defined(bias_O));
}

at::Tensor add_bias(const at::Tensor& x_TO, const at::Tensor& bias_O) {
  return AddBiasFunction::apply(x_TO, bias_O);
}

at::Tensor grouped_linear(const at::Tensor& rows_RI, const at::Tensor& weight_EOI, const at::Tensor& rows_per_expert_E,
                          const at::Tensor& bias_EO) {
  MOE_CHECK(rows_per_expert_E.numel() == weight_EOI.size(0), "one row count per expert");
  return GroupedLinearFunction::apply(rows_RI, weight_EOI, if_defined(bias_EO), rows_per_expert_E.contiguous());
}

}  // namespace moe::ops
