#include "common/error.h"
#include "kernels/norms.h"
#include "kernels/rows.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor swiglu_forward(const at::Tensor& gate, const at::Tensor& up, const kernels::Queue& queue) {
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  kernels::swiglu(const_view(gate), const_view(up), mutable_view(y), queue);
  return y;
}

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_in, const at::Tensor& up_in) {
    const kernels::Queue queue = queue_of("swiglu", {{"gate", gate_in}, {"up", up_in}});
    const at::Tensor gate = row_major(gate_in), up = row_major(up_in);
    context->save_for_backward({gate, up});
    return swiglu_forward(gate, up, queue);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], dy = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("swiglu's gradient", {{"dy", dy}, {"gate", gate}, {"up", up}});
    at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(up.sizes(), up.options());
    kernels::swiglu_gradient(const_view(dy), const_view(gate), const_view(up), mutable_view(dgate), mutable_view(dup),
                             queue);
    return {dgate, dup};
  }
};

class PackedSwigluFunction : public torch::autograd::Function<PackedSwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up_in) {
    const kernels::Queue queue = queue_of("swiglu", {{"gate_up", gate_up_in}});
    const at::Tensor gate_up = row_major(gate_up_in);
    context->save_for_backward({gate_up});
    return swiglu_forward(half(gate_up, 0), half(gate_up, 1), queue);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0], dy = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("swiglu's gradient", {{"dy", dy}, {"gate_up", gate_up}});
    at::Tensor dgate_up = at::empty(gate_up.sizes(), gate_up.options());
    at::Tensor dgate = half(dgate_up, 0), dup = half(dgate_up, 1);
    kernels::swiglu_gradient(const_view(dy), const_view(half(gate_up, 0)), const_view(half(gate_up, 1)),
                             mutable_view(dgate), mutable_view(dup), queue);
    return {dgate_up};
  }

 private:
  static at::Tensor half(const at::Tensor& gate_up, int64_t which) {
    const int64_t width = gate_up.size(1) / 2;
    return gate_up.narrow(1, which * width, width);
  }
};

/// One number per row of x, kept for the backward.
at::Tensor per_row(const at::Tensor& x) {
  return at::empty({x.size(0)}, x.options().dtype(sum_type(x.scalar_type())));
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in, double eps) {
    const kernels::Queue queue = queue_of("rms_norm", {{"x", x_in}, {"weight", weight_in}});
    const at::Tensor x = x_in.contiguous(), weight = weight_in.contiguous();
    at::Tensor y = at::empty(x.sizes(), x.options()), inverse = per_row(x);
    kernels::rms_norm(const_view(x), const_vector(weight), eps, mutable_view(y), mutable_vector(inverse), queue);
    context->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2], dy = gradients[0].contiguous();
    const kernels::Queue queue = queue_of("rms_norm's gradient", {{"dy", dy}, {"x", x}, {"weight", weight}});
    at::Tensor dx = at::empty(x.sizes(), x.options()), dweight;
    if (context->needs_input_grad(1)) dweight = at::empty(weight.sizes(), weight.options());
    kernels::rms_norm_gradient(const_view(dy), const_view(x), const_vector(weight), const_vector(inverse),
                               mutable_view(dx), mutable_vector(dweight), queue);
    return {dx, dweight, at::Tensor()};
  }
};

class LayerNormFunction : public torch::autograd::Function<LayerNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in,
                            const at::Tensor& bias_in, double eps) {
    const kernels::Queue queue = queue_of("layer_norm", {{"x", x_in}, {"weight", weight_in}, {"bias", bias_in}});
    const at::Tensor x = x_in.contiguous(), weight = weight_in.contiguous(), bias = bias_in.contiguous();
    at::Tensor y = at::empty(x.sizes(), x.options()), mean = per_row(x), inverse = per_row(x);
    kernels::layer_norm(const_view(x), const_vector(weight), const_vector(bias), eps, mutable_view(y),
                        mutable_vector(mean), mutable_vector(inverse), queue);
    context->save_for_backward({x, weight, mean, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &mean = saved[2], &inverse = saved[3],
                     dy = gradients[0].contiguous();
    const kernels::Queue queue = queue_of("layer_norm's gradient", {{"dy", dy}, {"x", x}, {"weight", weight}});
    at::Tensor dx = at::empty(x.sizes(), x.options()), dweight_dbias;
    if (context->needs_input_grad(1) || context->needs_input_grad(2))
      dweight_dbias = at::empty({2, x.size(1)}, x.options());
    kernels::layer_norm_gradient(const_view(dy), const_view(x), const_vector(weight), const_vector(mean),
                                 const_vector(inverse), mutable_view(dx), mutable_vector(dweight_dbias), queue);
    if (!dweight_dbias.defined()) return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
    return {dx, dweight_dbias[0], dweight_dbias[1], at::Tensor()};
  }
};

class GeluNewFunction : public torch::autograd::Function<GeluNewFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in) {
    const kernels::Queue queue = queue_of("gelu_new", {{"x", x_in}});
    const at::Tensor x = row_major(x_in);
    at::Tensor y = at::empty(x.sizes(), x.options());
    kernels::gelu_new(const_view(x), mutable_view(y), queue);
    context->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables()[0], dy = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("gelu_new's gradient", {{"dy", dy}, {"x", x}});
    at::Tensor dx = at::empty(x.sizes(), x.options());
    kernels::gelu_new_gradient(const_view(dy), const_view(x), mutable_view(dx), queue);
    return {dx};
  }
};

at::Tensor turned(const char* op, const at::Tensor& x_in, const at::Tensor& cos, const at::Tensor& sin, int direction) {
  const kernels::Queue queue = queue_of(op, {{"x", x_in}, {"cos", cos}, {"sin", sin}});
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  kernels::rope(const_heads_view(x), const_view(cos), const_view(sin), x.size(1), direction, mutable_heads_view(y),
                queue);
  return y;
}

class RopeFunction : public torch::autograd::Function<RopeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned("rope", x, cos, sin, 1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {turned("rope's gradient", gradients[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_RI, const at::Tensor& up_RI) {
  return SwigluFunction::apply(gate_RI, up_RI);
}

at::Tensor swiglu(const at::Tensor& gate_up_R2I) {
  return PackedSwigluFunction::apply(gate_up_R2I);
}

at::Tensor gelu_new(const at::Tensor& x_RI) {
  return GeluNewFunction::apply(x_RI);
}

at::Tensor rms_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps) {
  return RmsNormFunction::apply(x_TD, weight_D, eps);
}

at::Tensor layer_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps) {
  return LayerNormFunction::apply(x_TD, weight_D, bias_D, eps);
}

at::Tensor rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  MOE_CHECK(cos.sizes() == sin.sizes() && cos.size(0) == x.size(0) && 2 * cos.size(1) <= x.size(2), "angles ",
            cos.sizes(), " of heads ", x.sizes());
  const at::ScalarType type = sum_type(x.scalar_type());
  return RopeFunction::apply(x, cos.contiguous().to(type), sin.contiguous().to(type));
}

}  // namespace moe::ops
