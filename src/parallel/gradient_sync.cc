#include "parallel/gradient_sync.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/error.h"

namespace moe {
namespace {

/// Elements of one collective: large enough that latency does not count, small enough to bound the copy.
constexpr int64_t kBucketElements = int64_t{1} << 22;

void sum_bucket(const std::vector<at::Tensor>& gradients, Communicator& group, const std::string& op) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& gradient : gradients) flat.push_back(gradient.reshape(-1));
  at::Tensor bucket = at::cat(flat);
  group.all_reduce_sum(bucket, op);
  int64_t first = 0;
  for (at::Tensor gradient : gradients) {
    gradient.copy_(bucket.narrow(0, first, gradient.numel()).view_as(gradient));
    first += gradient.numel();
  }
}

void sum_group(const std::vector<at::Tensor>& gradients, Communicator& group, const std::string& op) {
  if (group.size() == 1) return;
  std::vector<at::Tensor> bucket;
  int64_t elements = 0;
  for (const at::Tensor& gradient : gradients) {
    if (!bucket.empty() && elements + gradient.numel() > kBucketElements) {
      sum_bucket(bucket, group, op);
      bucket.clear();
      elements = 0;
    }
    bucket.push_back(gradient);
    elements += gradient.numel();
  }
  if (!bucket.empty()) sum_bucket(bucket, group, op);
}

double squares(const at::Tensor& gradient) {
  return at::linalg_vector_norm(gradient, 2, {}, false, at::kDouble).square().item<double>();
}

}  // namespace

void sum_gradients(std::vector<Parameter>& parameters, Mesh& mesh) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> dense, experts;
  for (Parameter& parameter : parameters) {
    at::Tensor& gradient = parameter.value.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(parameter.value);
    (parameter.is_expert ? experts : dense).push_back(gradient);
  }
  sum_group(dense, mesh.world(), "sum dense gradients");
  sum_group(experts, mesh.replica_group(), "sum expert gradients");
}

double global_gradient_norm(const std::vector<Parameter>& parameters, Mesh& mesh) {
  double dense = 0, experts = 0;
  for (const Parameter& parameter : parameters) {
    MOE_CHECK(parameter.value.grad().defined(), "no gradient for ", parameter.name);
    (parameter.is_expert ? experts : dense) += squares(parameter.value.grad());
  }
  at::Tensor expert_squares = at::full({1}, experts, at::kDouble);
  mesh.expert_group().all_reduce_sum(expert_squares, "gradient norm of experts");
  return std::sqrt(dense + expert_squares.item<double>());
}

}  // namespace moe
