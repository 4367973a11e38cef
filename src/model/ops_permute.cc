#include "kernels/permute.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const int64_t* indices(const at::Tensor& tensor) {
  return tensor.const_data_ptr<int64_t>();
}

class PermuteFunction : public torch::autograd::Function<PermuteFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& row_tokens,
                            const at::Tensor& slot_rows) {
    const kernels::Queue queue =
        queue_of("permute", {{"x", x_in}, {"row_tokens", row_tokens}, {"slot_rows", slot_rows}});
    const at::Tensor x = row_major(x_in);
    at::Tensor rows = at::empty({row_tokens.size(0), x.size(1)}, x.options());
    kernels::permute(const_view(x), indices(row_tokens), mutable_view(rows), queue);
    context->save_for_backward({slot_rows});
    return rows;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor slot_rows = context->get_saved_variables()[0], drows = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("permute's gradient", {{"drows", drows}, {"slot_rows", slot_rows}});
    at::Tensor dx = at::empty({slot_rows.size(0), drows.size(1)}, drows.options());
    kernels::unpermute(const_view(drows), indices(slot_rows), slot_rows.size(1), {}, mutable_view(dx), queue);
    return {dx, at::Tensor(), at::Tensor()};
  }
};

class UnpermuteFunction : public torch::autograd::Function<UnpermuteFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_in, const at::Tensor& slot_rows,
                            const at::Tensor& weights_in) {
    const kernels::Queue queue =
        queue_of("unpermute", {{"rows", rows_in}, {"slot_rows", slot_rows}, {"weights", weights_in}});
    const at::Tensor rows = row_major(rows_in), weights = weights_in.contiguous();
    at::Tensor y = at::empty({slot_rows.size(0), rows.size(1)}, rows.options());
    kernels::unpermute(const_view(rows), indices(slot_rows), slot_rows.size(1), const_view(weights), mutable_view(y),
                       queue);
    context->save_for_backward({rows, slot_rows, weights});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &slot_rows = saved[1], &weights = saved[2], dy = row_major(gradients[0]);
    const kernels::Queue queue =
        queue_of("unpermute's gradient", {{"dy", dy}, {"rows", rows}, {"slot_rows", slot_rows}, {"weights", weights}});
    at::Tensor drows = at::empty(rows.sizes(), rows.options()),
               dweights = at::empty(weights.sizes(), weights.options());
    kernels::unpermute_gradient(const_view(dy), const_view(rows), indices(slot_rows), slot_rows.size(1),
                                const_view(weights), mutable_view(drows), mutable_view(dweights), queue);
    return {drows, at::Tensor(), dweights};
  }
};

/// By LibTorch, which would sum a row's gradient in its own type.
class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight, const at::Tensor& ids) {
    context->save_for_backward({ids});
    context->saved_data["rows"] = weight.size(0);
    return at::embedding(weight, ids);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor& dy = gradients[0];
    const at::Tensor dweight = at::embedding_dense_backward(
        dy.to(sum_type(dy.scalar_type())), context->get_saved_variables()[0], context->saved_data["rows"].toInt(),
        /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
    return {dweight.to(dy.scalar_type()), at::Tensor()};
  }
};

/// The mirror image of PermuteFunction.
class SumSlotsFunction : public torch::autograd::Function<SumSlotsFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_in, const at::Tensor& row_tokens,
                            const at::Tensor& slot_rows) {
    const kernels::Queue queue =
        queue_of("sum_slots", {{"rows", rows_in}, {"row_tokens", row_tokens}, {"slot_rows", slot_rows}});
    const at::Tensor rows = row_major(rows_in);
    at::Tensor y = at::empty({slot_rows.size(0), rows.size(1)}, rows.options());
    kernels::unpermute(const_view(rows), indices(slot_rows), slot_rows.size(1), {}, mutable_view(y), queue);
    context->save_for_backward({row_tokens});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor row_tokens = context->get_saved_variables()[0], dy = row_major(gradients[0]);
    const kernels::Queue queue = queue_of("sum_slots's gradient", {{"dy", dy}, {"row_tokens", row_tokens}});
    at::Tensor drows = at::empty({row_tokens.size(0), dy.size(1)}, dy.options());
    kernels::permute(const_view(dy), indices(row_tokens), mutable_view(drows), queue);
    return {drows, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T) {
  return EmbeddingFunction::apply(weight_VD, ids_T);
}

at::Tensor permute(const at::Tensor& x_TD, const at::Tensor& row_tokens_R, const at::Tensor& slot_rows_TK) {
  return PermuteFunction::apply(x_TD, row_tokens_R.contiguous(), slot_rows_TK.contiguous());
}

at::Tensor unpermute(const at::Tensor& rows_RD, const at::Tensor& slot_rows_TK, const at::Tensor& weights_TK) {
  // Rows of bf16 are weighted and summed in float: weights in bf16 are widened, and get a gradient in bf16.
  return UnpermuteFunction::apply(rows_RD, slot_rows_TK.contiguous(), weights_TK.to(sum_type(rows_RD.scalar_type())));
}

at::Tensor sum_slots(const at::Tensor& rows_RD, const at::Tensor& row_tokens_R, const at::Tensor& slot_rows_TK) {
  return SumSlotsFunction::apply(rows_RD, row_tokens_R.contiguous(), slot_rows_TK.contiguous());
}

}  // namespace moe::ops
