#include "parallel/gradient_sync.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/rows.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"

namespace moe {
namespace {

/// Elements of one collective: large enough that latency does not count, small enough to bound the copy.
constexpr int64_t kBucketElements = int64_t{1} << 22;

/// Each element is summed by itself in the order of ranks, so where buckets begin and end changes no bit.
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

/// Leaves the sum of squares at `sum`, on the gradient's device. In double: a norm decides over clipping on every rank
/// alike, and a sum of millions of squares in float would lose the small ones.
void sum_squares(const at::Tensor& gradient, double* sum) {
  const at::Tensor dense = gradient.contiguous();  // itself, as our operations make gradients
  kernels::sum_of_squares(const_vector(dense), sum, ops::queue_of("sum_of_squares", {{"gradient", dense}}));
}

/// A gradient that some rank made and this one did not (it had no rows) becomes zeros here. One that nobody made, of a
/// frozen or unused parameter, stays undefined, so that the optimizer leaves the parameter alone. A number for each
/// parameter once a step, made and read on the host: which gradients there are is known to it alone, and it makes those
/// that are missing.
void agree_on_gradients(std::vector<Parameter>& parameters, Communicator& world) {
  if (world.size() == 1 || parameters.empty()) return;
  at::Tensor makers = at::zeros({static_cast<int64_t>(parameters.size())}, at::kLong);
  int64_t* const count = makers.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < parameters.size(); ++i) count[i] = parameters[i].value.grad().defined() ? 1 : 0;
  world.all_reduce_sum(makers, "gradients made");
  const int64_t* const made = makers.const_data_ptr<int64_t>();
  for (size_t i = 0; i < parameters.size(); ++i) {
    at::Tensor& gradient = parameters[i].value.mutable_grad();
    if (made[i] > 0 && !gradient.defined()) gradient = at::zeros_like(parameters[i].value);
  }
}

}  // namespace

void sum_gradients(std::vector<Parameter>& parameters, Mesh& mesh) {
  const at::NoGradGuard no_grad;
  agree_on_gradients(parameters, mesh.world());
  std::vector<at::Tensor> dense, experts;
  for (Parameter& parameter : parameters) {
    const at::Tensor& gradient = parameter.value.grad();
    if (gradient.defined()) (parameter.is_expert ? experts : dense).push_back(gradient);
  }
  sum_group(dense, mesh.world(), "sum dense gradients");
  sum_group(experts, mesh.replica_group(), "sum expert gradients");
}

double global_gradient_norm(const std::vector<Parameter>& parameters, Mesh& mesh) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> dense, experts;
  int64_t places = 0;
  for (const Parameter& parameter : parameters) {
    const at::Tensor& gradient = parameter.value.grad();
    if (!gradient.defined()) continue;
    (parameter.is_expert ? experts : dense).push_back(gradient);
    places += parameter.is_expert ? gradient.size(0) * mesh.expert_parallel() : 1;
  }
  if (places == 0) return 0;
  // Of dense parameters, then by expert, in a place for each of the model's: other ranks' are 0 here, so that the sum
  // over the group adds nothing to them, and then all are added in one order, whoever owns which.
  at::Tensor sums = at::zeros({places}, (dense.empty() ? experts : dense).front().options().dtype(at::kDouble));
  double* place = sums.mutable_data_ptr<double>();
  for (const at::Tensor& gradient : dense) sum_squares(gradient, place++);
  for (const at::Tensor& gradient : experts) {
    const int64_t owned = gradient.size(0);
    double* const own = place + owned * mesh.expert_group().rank();
    for (int64_t e = 0; e < owned; ++e) sum_squares(gradient.select(0, e), own + e);
    place += owned * mesh.expert_parallel();
  }
  if (!experts.empty()) {
    at::Tensor of_experts = sums.slice(0, static_cast<int64_t>(dense.size()));
    mesh.expert_group().all_reduce_sum(of_experts, "gradient norm of experts");
  }
  // The one read of a norm: clipping, which it decides, and the step's record are the host's.
  const at::Tensor read = sums.cpu();
  const double* const values = read.const_data_ptr<double>();
  const double sum = std::accumulate(values, values + places, 0.0);
  return std::sqrt(sum);
}

}  // namespace moe
