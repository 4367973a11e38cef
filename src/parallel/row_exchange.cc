#include "parallel/row_exchange.h"

namespace moe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What the backward needs, carried through the context.
struct Exchange : torch::CustomClassHolder {
  Exchange(Communicator& group_in, ExchangeCounts counts_in, std::string op_in)
      : group(group_in), counts(std::move(counts_in)), op(std::move(op_in)) {}

  at::Tensor run(const at::Tensor& tensor, const ExchangeCounts& which, const char* suffix) const {
    return group.all_to_all(tensor, which.send, which.receive, op + suffix);
  }

  Communicator& group;
  ExchangeCounts counts;
  std::string op;
};

class ExchangeFunction : public torch::autograd::Function<ExchangeFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::TensorList& tensors, const Exchange* exchange) {
    // The context owns a copy: the caller's ends with the call.
    context->saved_data["exchange"] =
        c10::IValue::make_capsule(c10::make_intrusive<Exchange>(exchange->group, exchange->counts, exchange->op));
    variable_list received;
    for (const at::Tensor& tensor : tensors) received.push_back(exchange->run(tensor, exchange->counts, ""));
    return received;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto capsule = context->saved_data["exchange"].toCapsule();
    const auto* exchange = static_cast<const Exchange*>(capsule.get());
    variable_list returned;
    // One after the other in the order of the forward, whatever order autograd made them in: every rank must reach the
    // same collectives in the same order.
    for (const at::Tensor& gradient : gradients)
      returned.push_back(exchange->run(gradient, exchange->counts.reversed(), " gradient"));
    returned.emplace_back();
    return returned;
  }
};

}  // namespace

std::vector<at::Tensor> exchange_rows(Communicator& group, const std::vector<at::Tensor>& tensors,
                                      const ExchangeCounts& counts, const std::string& op) {
  const Exchange exchange(group, counts, op);
  return ExchangeFunction::apply(at::TensorList(tensors), &exchange);
}

}  // namespace moe
