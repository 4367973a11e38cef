#include "parallel/row_exchange.h"

namespace moe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What the backward needs, carried through the context.
struct Exchange : torch::CustomClassHolder {
  Exchange(Communicator& group_in, ExchangeCounts counts_in, std::string op_in)
      : group(group_in), counts(std::move(counts_in)), op(std::move(op_in)) {}

  /// All are on their way before the first one is waited for.
  variable_list run(at::ArrayRef<at::Tensor> tensors, const ExchangeCounts& which, const char* suffix) const {
    std::vector<std::unique_ptr<Work>> works;
    for (const at::Tensor& tensor : tensors)
      works.push_back(group.start_all_to_all(tensor, which.send, which.receive, op + suffix));
    variable_list received;
    for (const std::unique_ptr<Work>& work : works) received.push_back(work->wait());
    return received;
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
    return exchange->run(tensors, exchange->counts, "");
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto capsule = context->saved_data["exchange"].toCapsule();
    const auto* exchange = static_cast<const Exchange*>(capsule.get());
    // In the order of the forward, whatever order autograd made them in: every rank must begin the same collectives in
    // the same order.
    variable_list returned = exchange->run(gradients, exchange->counts.reversed(), " gradient");
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
