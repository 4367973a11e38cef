#include "model/causal_attention.h"
#include "model/ops.h"
#include "model/ops_dtype.h"

namespace moe::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

AttentionShape shape_of(const at::Tensor& q, const at::Tensor& k, std::vector<int64_t> cu_seqlens, int64_t window) {
  return {q.size(1), k.size(1), q.size(2), std::move(cu_seqlens), window};
}

class CausalAttentionFunction : public torch::autograd::Function<CausalAttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const std::vector<int64_t>& cu_seqlens, int64_t window) {
    const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    at::Tensor out = at::empty(q.sizes(), q.options()), log_sums = at::empty({q.size(1), q.size(0)}, q.options());
    for_dtype(q, [&]<typename T>(T) {
      causal_attention_forward<T>(shape_of(q, k, cu_seqlens, window), q.const_data_ptr<T>(), k.const_data_ptr<T>(),
                                  v.const_data_ptr<T>(), out.mutable_data_ptr<T>(), log_sums.mutable_data_ptr<T>());
    });
    context->save_for_backward({q, k, v, out, log_sums});
    context->saved_data["cu_seqlens"] = cu_seqlens;
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &log_sums = saved[4];
    const at::Tensor dout = gradients[0].contiguous();
    const AttentionShape shape =
        shape_of(q, k, context->saved_data["cu_seqlens"].toIntVector(), context->saved_data["window"].toInt());
    at::Tensor dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
               dv = at::empty(v.sizes(), v.options());
    for_dtype(q, [&]<typename T>(T) {
      causal_attention_backward<T>(shape, q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                                   out.const_data_ptr<T>(), log_sums.const_data_ptr<T>(), dout.const_data_ptr<T>(),
                                   {dq.mutable_data_ptr<T>(), dk.mutable_data_ptr<T>(), dv.mutable_data_ptr<T>()});
    });
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
