#include "common/error.h"
#include "model/ops.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up) {
    const int64_t width = gate_up.size(1) / 2;
    context->save_for_backward({gate_up});
    at::Tensor y = at::silu(gate_up.narrow(1, 0, width));
    return y.mul_(gate_up.narrow(1, width, width));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const int64_t width = gate_up.size(1) / 2;
    const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width), &dy = gradients[0];
    at::Tensor d_gate_up = at::empty(gate_up.sizes(), gate_up.options());
    at::Tensor d_gate = d_gate_up.narrow(1, 0, width), d_up = d_gate_up.narrow(1, width, width);
    at::silu_out(d_up, gate);
    d_up.mul_(dy);
    at::silu_backward_out(d_gate, dy * up, gate);
    return {d_gate_up};
  }
};

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor inverse = (x * x).mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
    context->save_for_backward({x, weight, inverse});
    return (x * inverse).mul_(weight);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2], &dy = gradients[0];
    const at::Tensor normed = x * inverse;
    const at::Tensor weighted = dy * weight;
    const at::Tensor projection = (weighted * normed).mean(-1, /*keepdim=*/true);
    at::Tensor dweight;
    if (context->needs_input_grad(1)) dweight = (dy * normed).sum(0);
    return {weighted.sub(normed * projection).mul_(inverse), dweight, at::Tensor()};
  }
};

at::Tensor turned(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool backwards) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half);
  const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  at::Tensor y = at::empty(x.sizes(), x.options());
  at::Tensor y_first = y.narrow(-1, 0, half), y_second = y.narrow(-1, half, half);
  at::mul_out(y_first, first, c);
  at::mul_out(y_second, second, c);
  if (backwards) {
    y_first.add_(second * s);
    y_second.sub_(first * s);
  } else {
    y_first.sub_(second * s);
    y_second.add_(first * s);
  }
  return y;
}

class RopeFunction : public torch::autograd::Function<RopeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned(x, cos, sin, /*backwards=*/false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {turned(gradients[0], saved[0], saved[1], /*backwards=*/true), at::Tensor(), at::Tensor()};
  }
};

constexpr int64_t kIgnored = -100;

class CrossEntropyFunction : public torch::autograd::Function<CrossEntropyFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& labels) {
    const at::Tensor log_probabilities = at::log_softmax(logits, -1);
    const at::Tensor ignored = labels.eq(kIgnored), index = labels.clamp_min(0).unsqueeze(1);
    context->save_for_backward({log_probabilities, ignored, index});
    return log_probabilities.gather(1, index).squeeze(1).neg_().masked_fill_(ignored, 0);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor scale = gradients[0].masked_fill(saved[1], 0).unsqueeze(1);
    return {saved[0].exp().mul_(scale).scatter_add_(1, saved[2], scale.neg()), at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up_R2I) { return SwigluFunction::apply(gate_up_R2I); }

at::Tensor rms_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps) {
  return RmsNormFunction::apply(x_TD, weight_D, eps);
}

at::Tensor rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) { return RopeFunction::apply(x, cos, sin); }

at::Tensor cross_entropy(const at::Tensor& logits_TV, const at::Tensor& labels_T) {
  return CrossEntropyFunction::apply(logits_TV, labels_T);
}

}  // namespace moe::ops
