#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

/// AdamW of one parameter, number by number, in double.
struct NaiveAdamW {
  std::vector<double> value, m, v;
  AdamWOptions options;
  bool decays;

  NaiveAdamW(const at::Tensor& start, const AdamWOptions& given, bool decays_in) : options(given), decays(decays_in) {
    const at::Tensor numbers = start.detach().to(at::kDouble).contiguous();
    value.assign(numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + numbers.numel());
    m.assign(value.size(), 0);
    v.assign(value.size(), 0);
  }
  void update(const at::Tensor& gradient, double rate, double scale, int step) {
    const at::Tensor numbers = gradient.to(at::kDouble).contiguous();
    for (size_t i = 0; i < value.size(); ++i) {
      const double g = numbers.const_data_ptr<double>()[i] * scale;
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(options.beta1, step)),
                   v_hat = v[i] / (1 - std::pow(options.beta2, step));
      if (decays) value[i] *= 1 - rate * options.weight_decay;
      value[i] -= rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
    }
  }
};

at::Tensor as_tensor(const std::vector<double>& numbers, const at::Tensor& like) {
  return at::tensor(numbers, at::kDouble).view_as(like);
}

Parameter parameter(const std::string& name, const at::Tensor& value, bool decays) {
  return {.name = name, .value = value.clone().requires_grad_(true), .decays = decays, .id = TensorPart::kHead};
}

class AdamWTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWTest, FollowsANaiveImplementation) {
  const at::ScalarType dtype = GetParam();
  // Odd sizes, so that vector loops have a rest; a norm that does not decay; a rank that owns no expert of a layer.
  std::vector<Parameter> parameters{parameter("matrix", testing::random_normal({37, 19}, 1, dtype), true),
                                    parameter("experts", testing::random_normal({3, 10, 7}, 2, dtype), true),
                                    parameter("norm", testing::random_normal({43}, 3, dtype), false),
                                    parameter("nothing", testing::random_normal({0, 4}, 4, dtype), true)};
  const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
  std::vector<NaiveAdamW> naive;
  for (const Parameter& p : parameters) naive.emplace_back(p.value, options, p.decays);
  AdamW optimizer(parameters, options);
  for (int step = 1; step <= 20; ++step) {
    const double rate = 1e-2 / step, scale = step % 3 == 0 ? 0.25 : 1.0;
    optimizer.zero_gradients();
    for (size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_FALSE(parameters[i].value.grad().defined());
      const at::Tensor gradient = testing::random_normal(parameters[i].value.sizes().vec(), 100 * step + i, dtype);
      parameters[i].value.mutable_grad() = gradient.clone();
      naive[i].update(gradient, rate, scale, step);
    }
    optimizer.update(rate, scale, step);
  }
  const double tolerance = dtype == at::kDouble ? 1e-13 : 2e-6;
  for (size_t i = 0; i < parameters.size(); ++i) {
    SCOPED_TRACE(parameters[i].name);
    EXPECT_TRUE(testing::near(parameters[i].value.detach(), as_tensor(naive[i].value, parameters[i].value), tolerance));
    EXPECT_TRUE(testing::near(optimizer.first_moments()[i], as_tensor(naive[i].m, parameters[i].value), tolerance));
    EXPECT_TRUE(testing::near(optimizer.second_moments()[i], as_tensor(naive[i].v, parameters[i].value), tolerance));
    EXPECT_EQ(optimizer.first_moments()[i].scalar_type(), dtype);
    EXPECT_FALSE(optimizer.first_moments()[i].requires_grad());
  }
}
INSTANTIATE_TEST_SUITE_P(Types, AdamWTest, ::testing::Values(at::kDouble, at::kFloat),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST(AdamWTest, GroupsHaveRatesAndDecaysOfTheirOwnOrAreNotTrained) {
  const std::vector<ParameterGroup> groups{
      {}, {.learning_rate_factor = 0.5}, {.is_trained = false}, {.learning_rate_factor = 2, .weight_decay_factor = 0}};
  std::vector<Parameter> parameters;
  std::vector<NaiveAdamW> naive;
  const AdamWOptions options{.weight_decay = 0.1};
  for (size_t i = 0; i < groups.size(); ++i) {
    parameters.push_back(parameter(std::to_string(i), testing::random_normal({5, 3}, i), true));
    AdamWOptions own = options;
    own.weight_decay *= groups[i].weight_decay_factor;
    naive.emplace_back(parameters[i].value, own, true);
  }
  const at::Tensor frozen = parameters[2].value.detach().clone();
  AdamW optimizer(parameters, options, groups);
  for (int step = 1; step <= 5; ++step) {
    optimizer.zero_gradients();
    for (size_t i = 0; i < groups.size(); ++i) {
      const at::Tensor gradient = testing::random_normal({5, 3}, 10 * step + i);
      parameters[i].value.mutable_grad() = gradient.clone();
      naive[i].update(gradient, 1e-2 * groups[i].learning_rate_factor, 1, step);
    }
    optimizer.update(1e-2, 1, step);
  }
  for (const size_t i : {0, 1, 3}) {
    EXPECT_TRUE(testing::near(parameters[i].value.detach(), as_tensor(naive[i].value, frozen), 1e-13)) << i;
  }
  EXPECT_TRUE(at::equal(parameters[2].value.detach(), frozen)) << "a gradient moved what is not trained";
  EXPECT_FALSE(optimizer.first_moments()[2].defined());
  EXPECT_FALSE(optimizer.second_moments()[2].defined());
}

TEST(AdamWTest, WithoutGradientOnlyMatricesShrink) {
  std::vector<Parameter> parameters{parameter("matrix", at::ones({4, 4}, at::kDouble), true),
                                    parameter("norm", at::ones({4}, at::kDouble), false)};
  AdamW optimizer(parameters, {.weight_decay = 0.5});
  for (Parameter& p : parameters) p.value.mutable_grad() = at::zeros_like(p.value);
  optimizer.update(0.1, 1, 1);
  EXPECT_TRUE(testing::near(parameters[0].value.detach(), at::full({4, 4}, 0.95, at::kDouble), 1e-15));
  EXPECT_TRUE(at::equal(parameters[1].value.detach(), at::ones({4}, at::kDouble)));
}

/// As torch.optim.AdamW: no gradient, no change, whatever the decay and the moments.
TEST(AdamWTest, AParameterWithoutGradientIsLeftAlone) {
  std::vector<Parameter> parameters{parameter("frozen", testing::random_normal({5, 4}, 1), true),
                                    parameter("trained", testing::random_normal({5, 4}, 2), true)};
  const at::Tensor frozen = parameters[0].value.detach().clone(), trained = parameters[1].value.detach().clone();
  AdamW optimizer(parameters, {.weight_decay = 0.5});
  optimizer.first_moments()[0].fill_(0.25);
  optimizer.second_moments()[0].fill_(0.5);
  parameters[1].value.mutable_grad() = testing::random_normal({5, 4}, 3);
  optimizer.update(0.1, 0.5, 1);
  EXPECT_TRUE(at::equal(parameters[0].value.detach(), frozen));
  EXPECT_TRUE(at::equal(optimizer.first_moments()[0], at::full({5, 4}, 0.25, at::kDouble)));
  EXPECT_TRUE(at::equal(optimizer.second_moments()[0], at::full({5, 4}, 0.5, at::kDouble)));
  EXPECT_FALSE(at::equal(parameters[1].value.detach(), trained));
}

/// Its moments began later than those of the others, and so does its bias correction.
TEST(AdamWTest, AParameterThatStoodStillAtFirstCountsItsOwnUpdates) {
  const AdamWOptions options{.weight_decay = 0.1};
  const at::Tensor start = testing::random_normal({5, 4}, 1), other = testing::random_normal({5, 4}, 2);
  std::vector<Parameter> parameters{parameter("late", start, true), parameter("trained", other, true)},
      fresh{parameter("late", start, true)};
  NaiveAdamW naive(other, options, true);
  AdamW optimizer(parameters, options), of_fresh(fresh, options);
  for (int step = 1; step <= 9; ++step) {
    optimizer.zero_gradients();
    const at::Tensor gradient = testing::random_normal({5, 4}, 10 + step);
    parameters[1].value.mutable_grad() = gradient.clone();
    naive.update(gradient, 1e-2, 1, step);
    if (step > 6) {
      parameters[0].value.mutable_grad() = gradient.clone();
      fresh[0].value.mutable_grad() = gradient.clone();
      of_fresh.update(1e-2, 1, step - 6);
    }
    optimizer.update(1e-2, 1, step, {std::min(step - 1, 6), 0});
    EXPECT_TRUE(at::equal(parameters[0].value.detach(), fresh[0].value.detach())) << "step " << step;
  }
  EXPECT_FALSE(at::equal(parameters[0].value.detach(), start));
  EXPECT_TRUE(testing::near(parameters[1].value.detach(), as_tensor(naive.value, other), 1e-13));
}

}  // namespace
}  // namespace moe
