#include "convert/row_sums.h"

#include <string>
#include <utility>

#include "common/error.h"

namespace moe {

void RowSums::add(int64_t row, at::Tensor values) {
  push({0, row, std::move(values)});
}

void RowSums::push(Node node) {
  nodes_.push_back(std::move(node));
  while (nodes_.size() > 1) {
    const Node &left = nodes_[nodes_.size() - 2], &right = nodes_.back();
    if (left.level != right.level || left.index % 2 != 0 || right.index != left.index + 1) break;
    Node parent{left.level + 1, left.index / 2, left.sum + right.sum};
    nodes_.resize(nodes_.size() - 2);
    nodes_.push_back(std::move(parent));
  }
}

at::Tensor RowSums::total(at::IntArrayRef shape, Communicator& world, std::string_view op) {
  std::vector<at::Tensor> places, sums;
  for (const Node& node : nodes_) {
    places.push_back(at::tensor({node.level, node.index}, at::kLong));
    sums.push_back(node.sum);
  }
  std::vector<int64_t> none = shape.vec();
  none.insert(none.begin(), 0);
  const std::string name(op);
  const at::Tensor all_places = world.all_gather(places.empty() ? at::empty({0, 2}, at::kLong) : at::stack(places),
                                                 name + " (places)"),
                   all_sums = world.all_gather(sums.empty() ? at::empty(none, at::kDouble) : at::stack(sums), name);
  MOE_CHECK(all_places.size(0) > 0, op, ": no rank has a row");
  RowSums whole;
  for (int64_t i = 0; i < all_places.size(0); ++i)
    whole.push({all_places[i][0].item<int64_t>(), all_places[i][1].item<int64_t>(), all_sums[i]});
  at::Tensor total = whole.nodes_.front().sum.clone();
  for (size_t i = 1; i < whole.nodes_.size(); ++i) total = total + whole.nodes_[i].sum;
  return total;
}

at::Tensor sum_over_tokens(const at::Tensor& values_TN, Communicator& world, std::string_view op) {
  const at::Tensor all_TN = world.all_gather(values_TN.contiguous(), op).contiguous();
  const int64_t tokens = all_TN.size(0), count = all_TN.size(1);
  at::Tensor total = at::zeros({count}, at::kDouble);
  const auto* value = all_TN.const_data_ptr<double>();
  auto* const sum = total.mutable_data_ptr<double>();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < count; ++i) sum[i] += *value++;
  }
  return total;
}

}  // namespace moe
