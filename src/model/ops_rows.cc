#include "common/error.h"
#include "model/ops.h"
#include "model/ops_dtype.h"
#include "model/row_math.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// A row-major matrix whose rows may stand apart; copied where its columns do.
at::Tensor with_unit_columns(const at::Tensor& matrix) {
  return matrix.stride(1) == 1 ? matrix : matrix.contiguous();
}

template <typename T>
row_math::Rows<const T> rows_of(const at::Tensor& matrix) {
  return {matrix.const_data_ptr<T>(), matrix.stride(0)};
}
template <typename T>
row_math::Rows<T> mutable_rows_of(const at::Tensor& matrix) {
  return {matrix.mutable_data_ptr<T>(), matrix.stride(0)};
}

at::Tensor swiglu_forward(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  for_dtype(gate, [&]<typename T>(T) {
    row_math::swiglu<T>(rows_of<T>(gate), rows_of<T>(up), y.size(0), y.size(1), y.mutable_data_ptr<T>());
  });
  return y;
}

void swiglu_backward(const at::Tensor& dy_in, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& dgate,
                     const at::Tensor& dup) {
  const at::Tensor dy = dy_in.contiguous();
  for_dtype(gate, [&]<typename T>(T) {
    row_math::swiglu_gradient<T>(dy.const_data_ptr<T>(), rows_of<T>(gate), rows_of<T>(up), dy.size(0), dy.size(1),
                                 mutable_rows_of<T>(dgate), mutable_rows_of<T>(dup));
  });
}

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_in, const at::Tensor& up_in) {
    const at::Tensor gate = with_unit_columns(gate_in), up = with_unit_columns(up_in);
    context->save_for_backward({gate, up});
    return swiglu_forward(gate, up);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor dgate = at::empty(saved[0].sizes(), saved[0].options()),
                     dup = at::empty(saved[1].sizes(), saved[1].options());
    swiglu_backward(gradients[0], saved[0], saved[1], dgate, dup);
    return {dgate, dup};
  }
};

class PackedSwigluFunction : public torch::autograd::Function<PackedSwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up_in) {
    const at::Tensor gate_up = with_unit_columns(gate_up_in);
    context->save_for_backward({gate_up});
    return swiglu_forward(half(gate_up, 0), half(gate_up, 1));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    at::Tensor dgate_up = at::empty(gate_up.sizes(), gate_up.options());
    swiglu_backward(gradients[0], half(gate_up, 0), half(gate_up, 1), half(dgate_up, 0), half(dgate_up, 1));
    return {dgate_up};
  }

 private:
  static at::Tensor half(const at::Tensor& gate_up, int64_t which) {
    const int64_t width = gate_up.size(1) / 2;
    return gate_up.narrow(1, which * width, width);
  }
};

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in, double eps) {
    const at::Tensor x = x_in.contiguous(), weight = weight_in.contiguous();
    at::Tensor y = at::empty(x.sizes(), x.options()), inverse = at::empty({x.size(0)}, x.options());
    for_dtype(x, [&]<typename T>(T) {
      row_math::rms_norm<T>(x.const_data_ptr<T>(), weight.const_data_ptr<T>(), eps, x.size(0), x.size(1),
                            y.mutable_data_ptr<T>(), inverse.mutable_data_ptr<T>());
    });
    context->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2], dy = gradients[0].contiguous();
    at::Tensor dx = at::empty(x.sizes(), x.options()), dweight;
    if (context->needs_input_grad(1)) dweight = at::empty(weight.sizes(), weight.options());
    for_dtype(x, [&]<typename T>(T) {
      row_math::rms_norm_gradient<T>(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), weight.const_data_ptr<T>(),
                                     inverse.const_data_ptr<T>(), x.size(0), x.size(1), dx.mutable_data_ptr<T>(),
                                     dweight.defined() ? dweight.mutable_data_ptr<T>() : nullptr);
    });
    return {dx, dweight, at::Tensor()};
  }
};

class LayerNormFunction : public torch::autograd::Function<LayerNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& weight_in,
                            const at::Tensor& bias_in, double eps) {
    const at::Tensor x = x_in.contiguous(), weight = weight_in.contiguous(), bias = bias_in.contiguous();
    at::Tensor y = at::empty(x.sizes(), x.options()), mean = at::empty({x.size(0)}, x.options()),
               inverse = at::empty_like(mean);
    for_dtype(x, [&]<typename T>(T) {
      row_math::layer_norm<T>(x.const_data_ptr<T>(), weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), eps,
                              x.size(0), x.size(1), y.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(),
                              inverse.mutable_data_ptr<T>());
    });
    context->save_for_backward({x, weight, mean, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &mean = saved[2], &inverse = saved[3],
                     dy = gradients[0].contiguous();
    at::Tensor dx = at::empty(x.sizes(), x.options()), dweight_dbias;
    if (context->needs_input_grad(1) || context->needs_input_grad(2))
      dweight_dbias = at::empty({2, x.size(1)}, x.options());
    for_dtype(x, [&]<typename T>(T) {
      row_math::layer_norm_gradient<T>(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), weight.const_data_ptr<T>(),
                                       mean.const_data_ptr<T>(), inverse.const_data_ptr<T>(), x.size(0), x.size(1),
                                       dx.mutable_data_ptr<T>(),
                                       dweight_dbias.defined() ? dweight_dbias.mutable_data_ptr<T>() : nullptr);
    });
    if (!dweight_dbias.defined()) return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
    return {dx, dweight_dbias[0], dweight_dbias[1], at::Tensor()};
  }
};

class GeluNewFunction : public torch::autograd::Function<GeluNewFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in) {
    const at::Tensor x = x_in.contiguous();
    at::Tensor y = at::empty(x.sizes(), x.options());
    for_dtype(x, [&]<typename T>(T) {
      row_math::gelu_new<T>(x.const_data_ptr<T>(), x.size(0), x.size(1), y.mutable_data_ptr<T>());
    });
    context->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables()[0], dy = gradients[0].contiguous();
    at::Tensor dx = at::empty(x.sizes(), x.options());
    for_dtype(x, [&]<typename T>(T) {
      row_math::gelu_new_gradient<T>(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), x.size(0), x.size(1),
                                     dx.mutable_data_ptr<T>());
    });
    return {dx};
  }
};

at::Tensor turned(const at::Tensor& x_in, const at::Tensor& cos, const at::Tensor& sin, int direction) {
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  for_dtype(x, [&]<typename T>(T) {
    row_math::rope<T>(x.const_data_ptr<T>(), cos.const_data_ptr<T>(), sin.const_data_ptr<T>(), x.size(0), x.size(1),
                      x.size(2), cos.size(1), direction, y.mutable_data_ptr<T>());
  });
  return y;
}

class RopeFunction : public torch::autograd::Function<RopeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned(x, cos, sin, 1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {turned(gradients[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
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
  return RopeFunction::apply(x, cos.contiguous(), sin.contiguous());
}

}  // namespace moe::ops
