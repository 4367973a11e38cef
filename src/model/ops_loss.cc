#include "common/error.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"
#include "model/ops_bias.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kIgnored = -100;
constexpr char kIsSpent[] = "is_spent";

/// Logits never leave this function, so that their gradient takes their place: one [T, V] tensor in all.
class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in,
                            const std::optional<at::Tensor>& bias, const at::Tensor& labels_in) {
    const kernels::Queue queue =
        queue_of("linear_cross_entropy",
                 {{"x", x_in}, {"weight", weight_in}, {"bias", or_undefined(bias)}, {"labels", labels_in}});
    const at::Tensor x = row_major(x_in), weight = row_major(weight_in), labels = labels_in.contiguous();
    MOE_CHECK(labels.numel() == x.size(0), labels.numel(), " labels of ", x.size(0), " rows");
    at::Tensor logits = at::empty({x.size(0), weight.size(0)}, x.options());
    kernels::linear_forward(const_view(x), const_view(weight), mutable_view(logits), queue);
    if (bias) {
      add_bias_to(logits, *bias, queue);
      context->saved_data[kHasBias] = true;
    }
    at::Tensor losses = at::empty({x.size(0)}, x.options().dtype(sum_type(x.scalar_type()))),
               log_sums = at::empty_like(losses);
    kernels::cross_entropy(const_view(logits), labels.const_data_ptr<int64_t>(), kIgnored, mutable_vector(losses),
                           mutable_vector(log_sums), queue);
    context->save_for_backward({x, weight, labels, logits, log_sums});
    return losses;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    MOE_CHECK(context->saved_data.count(kIsSpent) == 0, "the loss's backward runs once: its logits are overwritten");
    context->saved_data[kIsSpent] = true;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &labels = saved[2], &log_sums = saved[4],
                     dlosses = gradients[0].contiguous();
    const kernels::Queue queue =
        queue_of("linear_cross_entropy's gradient", {{"dlosses", dlosses}, {"x", x}, {"weight", weight}});
    at::Tensor dlogits = saved[3];
    kernels::cross_entropy_gradient(const_vector(dlosses), const_view(dlogits), const_vector(log_sums),
                                    labels.const_data_ptr<int64_t>(), kIgnored, mutable_view(dlogits), queue);
    at::Tensor dx, dweight, dbias;
    if (context->needs_input_grad(0)) {
      dx = at::empty(x.sizes(), x.options());
      kernels::linear_input_gradient(const_view(dlogits), const_view(weight), mutable_view(dx), queue);
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty(weight.sizes(), weight.options());
      kernels::linear_weight_gradient(const_view(dlogits), const_view(x), mutable_view(dweight), queue);
    }
    if (context->saved_data.count(kHasBias) > 0 && context->needs_input_grad(2)) dbias = bias_gradient(dlogits, queue);
    return {dx, dweight, dbias, at::Tensor()};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& x_TD, const at::Tensor& weight_VD, const at::Tensor& labels_T,
                                const at::Tensor& bias_V) {
  return LinearCrossEntropyFunction::apply(x_TD, weight_VD, if_defined(bias_V), labels_T);
}

}  // namespace moe::ops
