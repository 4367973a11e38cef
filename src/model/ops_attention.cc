#include "common/error.h"
#include "kernels/attention.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

kernels::AttentionShape shape_of(const at::Tensor& q, const at::Tensor& k, const std::vector<int64_t>& cu_seqlens,
                                 int64_t window) {
  return {q.size(1), k.size(1), q.size(2), cu_seqlens, window};
}

class CausalAttentionFunction : public torch::autograd::Function<CausalAttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const std::vector<int64_t>& cu_seqlens, int64_t window) {
    const kernels::Queue queue = queue_of("causal_attention", {{"q", q_in}, {"k", k_in}, {"v", v_in}});
    const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    at::Tensor out = at::empty(q.sizes(), q.options()),
               log_sums = at::empty({q.size(1), q.size(0)}, q.options().dtype(sum_type(q.scalar_type())));
    kernels::causal_attention(shape_of(q, k, cu_seqlens, window), const_heads_view(q), const_heads_view(k),
                              const_heads_view(v), mutable_heads_view(out), mutable_view(log_sums), queue);
    context->save_for_backward({q, k, v, out, log_sums});
    context->saved_data["cu_seqlens"] = cu_seqlens;
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &log_sums = saved[4];
    const at::Tensor dout = gradients[0].contiguous();
    const kernels::Queue queue =
        queue_of("causal_attention's gradient", {{"dout", dout}, {"q", q}, {"k", k}, {"v", v}});
    const std::vector<int64_t> cu_seqlens = context->saved_data["cu_seqlens"].toIntVector();
    at::Tensor dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
               dv = at::empty(v.sizes(), v.options());
    kernels::causal_attention_gradient(shape_of(q, k, cu_seqlens, context->saved_data["window"].toInt()),
                                       const_heads_view(dout), const_heads_view(q), const_heads_view(k),
                                       const_heads_view(v), const_heads_view(out), const_view(log_sums),
                                       mutable_heads_view(dq), mutable_heads_view(dk), mutable_heads_view(dv), queue);
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<int64_t>& cu_seqlens, int64_t window) {
  MOE_CHECK(q.dim() == 3 && k.sizes() == v.sizes() && k.size(0) == q.size(0) && k.size(2) == q.size(2) &&
                q.size(1) % k.size(1) == 0,
            "attention of q ", q.sizes(), ", k ", k.sizes(), ", v ", v.sizes());
  MOE_CHECK(!cu_seqlens.empty() && cu_seqlens.front() == 0 && cu_seqlens.back() == q.size(0),
            "the sequences are not the ", q.size(0), " tokens");
  return CausalAttentionFunction::apply(q, k, v, cu_seqlens, window);
}

}  // namespace moe::ops
