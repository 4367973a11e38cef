#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "common/error.h"
#include "parallel/gradient_sync.h"
#include "parallel/parallel_checks.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe::testing {
namespace {

constexpr int64_t kExperts = 8, kRows = 3, kColumns = 4;

/// What rank `rank` adds to the gradient of a dense parameter, of an expert.
at::Tensor dense_part(int rank) {
  return random_normal({kRows, kColumns}, 1000 + rank);
}
at::Tensor expert_part(int rank, int64_t expert) {
  return random_normal({kRows, kColumns}, 2000 + 100 * rank + expert);
}
/// Only the last rank has a gradient for the second dense parameter.
at::Tensor lonely_part() {
  return random_normal({7}, 3000);
}

double square_sum(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  double sum = 0;
  for (int64_t i = 0; i < flat.numel(); ++i) sum += flat.const_data_ptr<double>()[i] * flat.const_data_ptr<double>()[i];
  return sum;
}

Parameter parameter(const std::string& name, const at::Tensor& value, bool is_expert) {
  return {.name = name,
          .value = value,
          .is_expert = is_expert,
          .id = {TensorPart::kDown, 0, is_expert ? kStack : kNoExpert}};
}

void check_layout(Communicator& world, int expert_parallel) {
  SCOPED_TRACE(concat(world.size() / expert_parallel, " x ", expert_parallel, " ranks, rank ", world.rank()));
  Mesh mesh(world, expert_parallel);
  const int ranks = world.size(), me = world.rank();
  const int64_t owned = kExperts / expert_parallel, first = me % expert_parallel * owned;

  std::vector<Parameter> parameters{parameter("dense", at::zeros({kRows, kColumns}, at::kDouble), false),
                                    parameter("experts", at::zeros({owned, kRows, kColumns}, at::kDouble), true),
                                    parameter("lonely", at::zeros({7}, at::kDouble), false),
                                    parameter("frozen", at::ones({5}, at::kDouble), false),
                                    parameter("frozen experts", at::ones({owned, 2}, at::kDouble), true),
                                    parameter("lonely experts", at::zeros({owned, 2}, at::kDouble), true)};
  // A gradient that lies transposed in memory counts by its shape.
  parameters[0].value.mutable_grad() = dense_part(me).t().contiguous().t();
  std::vector<at::Tensor> parts;
  for (int64_t e = 0; e < owned; ++e) parts.push_back(expert_part(me, first + e));
  parameters[1].value.mutable_grad() = at::stack(parts);
  if (me == ranks - 1) parameters[2].value.mutable_grad() = lonely_part();
  if (me == 0) parameters[5].value.mutable_grad() = at::ones({owned, 2}, at::kDouble);
  sum_gradients(parameters, mesh);

  at::Tensor dense = at::zeros({kRows, kColumns}, at::kDouble);
  for (int r = 0; r < ranks; ++r) dense = dense + dense_part(r);
  EXPECT_TRUE(near(parameters[0].value.grad(), dense, 1e-14));
  EXPECT_TRUE(parameters[2].value.grad().equal(lonely_part()));
  EXPECT_FALSE(parameters[3].value.grad().defined()) << "nobody made it: a frozen weight must not decay";
  EXPECT_FALSE(parameters[4].value.grad().defined());
  EXPECT_TRUE(parameters[5].value.grad().equal(at::full({owned, 2}, first == 0 ? 1 : 0, at::kDouble)));
  double squares = square_sum(dense) + square_sum(lonely_part()) + static_cast<double>(2 * owned);
  for (int64_t e = 0; e < kExperts; ++e) {
    at::Tensor sum = at::zeros({kRows, kColumns}, at::kDouble);
    for (int r = 0; r < ranks; ++r) {
      if (r % expert_parallel == e / owned) sum = sum + expert_part(r, e);
    }
    squares += square_sum(sum);
    if (e < first || e >= first + owned) continue;
    EXPECT_TRUE(near(parameters[1].value.grad()[e - first], sum, 1e-14)) << "expert " << e;
  }

  const double norm = global_gradient_norm(parameters, mesh);
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-12 * std::sqrt(squares));
  for (const std::string& bits :
       world.all_gather_bytes(std::string(reinterpret_cast<const char*>(&norm), sizeof norm), "norms")) {
    EXPECT_EQ(std::memcmp(bits.data(), &norm, sizeof norm), 0) << "the ranks disagree on the norm";
  }
}

/// The norm of given gradients is the same number in every layout, to the bit, and takes no copy of them.
void check_norm_bits(Communicator& world) {
  const auto self = make_self_communicator();
  const auto norm_at = [](Communicator& ranks, int expert_parallel) {
    Mesh mesh(ranks, expert_parallel);
    const int64_t owned = kExperts / expert_parallel, first = ranks.rank() % expert_parallel * owned;
    std::vector<Parameter> parameters{
        parameter("dense", at::zeros({70'000}), false), parameter("experts", at::zeros({owned, 300, 111}), true),
        parameter("more", at::zeros({owned, 13}), true), parameter("frozen", at::zeros({4}), false)};
    parameters[0].value.mutable_grad() = random_normal({70'000}, 5, at::kFloat);
    for (const size_t i : {1, 2}) {
      std::vector<at::Tensor> parts;
      for (int64_t e = 0; e < owned; ++e)
        parts.push_back(random_normal(parameters[i].value.sizes().slice(1).vec(), 100 * i + first + e, at::kFloat));
      parameters[i].value.mutable_grad() = at::stack(parts);
    }
    return global_gradient_norm(parameters, mesh);
  };
  const double expected = norm_at(*self, 1);
  EXPECT_GT(expected, 100);
  for (int expert_parallel = 1; expert_parallel <= world.size(); expert_parallel *= 2) {
    const double norm = norm_at(world, expert_parallel);
    EXPECT_EQ(std::memcmp(&norm, &expected, sizeof norm), 0)
        << norm << " and " << expected << " at expert parallelism " << expert_parallel;
  }
}

/// Gradients larger than what one collective carries; whole numbers, so that the sums are exact.
void check_many_elements(Communicator& world) {
  Mesh mesh(world, 1);
  std::vector<Parameter> parameters;
  for (const int64_t count : {int64_t{3'000'000}, int64_t{2'000'000}, int64_t{1}}) {
    parameters.push_back(parameter(std::to_string(count), at::zeros({count}), false));
    parameters.back().value.mutable_grad() = at::arange(count).remainder(1000).to(at::kFloat) + world.rank();
  }
  sum_gradients(parameters, mesh);
  const int64_t ranks = world.size();
  for (const Parameter& summed : parameters) {
    const at::Tensor expected =
        (at::arange(summed.value.numel()).remainder(1000) * ranks + ranks * (ranks - 1) / 2).to(at::kFloat);
    EXPECT_TRUE(summed.value.grad().equal(expected)) << summed.name << " elements";
  }
}

}  // namespace

void check_gradient_sync(Communicator& world) {
  for (int expert_parallel = 1; expert_parallel <= world.size(); expert_parallel *= 2)
    check_layout(world, expert_parallel);
  check_norm_bits(world);
  check_many_elements(world);
}

}  // namespace moe::testing
