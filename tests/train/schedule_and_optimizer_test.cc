#include <gtest/gtest.h>

#include <cmath>

#include "testing/compare.h"
#include "train/lr_schedule.h"
#include "train/optimizer.h"

namespace moe {
namespace {

// The learning rates of the LLaMA-MoE v1 run: 13,623 steps, peak 2e-4, 100 steps of warm-up.
TEST(LrScheduleTest, MatchesThePublishedRun) {
  const LrSchedule schedule{2e-4, 0.1, 100, 13623};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0), 0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 50), 1e-4);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 100), 2e-4);
  EXPECT_NEAR(learning_rate(schedule, 6861), 1.000116e-4, 1e-10);
  EXPECT_NEAR(learning_rate(schedule, 10000), 3.337864e-5, 1e-11);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 10854), 2e-5);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 13623), 2e-5);
}

/// The update as the paper writes it, one number at a time.
void naive_adamw(std::vector<double>& w, std::vector<double>& m, std::vector<double>& v, const std::vector<double>& g, double lr, double decay,
                 const AdamWOptions& o, int64_t t) {
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] -= lr * decay * w[i];
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
    const double m_hat = m[i] / (1 - std::pow(o.beta1, static_cast<double>(t))), v_hat = v[i] / (1 - std::pow(o.beta2, static_cast<double>(t)));
    w[i] -= lr * m_hat / (std::sqrt(v_hat) + o.epsilon);
  }
}

TEST(AdamWTest, MatchesTheFormulaAndDecaysMatricesOnly) {
  at::manual_seed(5);
  const AdamWOptions options{0.9, 0.95, 1e-8, 0.1};
  std::vector<Parameter> parameters(2);
  for (Parameter& parameter : parameters) parameter.value = at::randn({7, 5}, at::kDouble).set_requires_grad(true);
  parameters[0].decays = true;
  const auto to_vector = [](const at::Tensor& t) { return std::vector<double>(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel()); };
  std::vector<std::vector<double>> w, m(2, std::vector<double>(35)), v(2, std::vector<double>(35));
  for (const Parameter& parameter : parameters) w.push_back(to_vector(parameter.value.detach()));
  AdamW optimizer(parameters, options);
  const double scale = 0.25;
  for (int64_t step = 1; step <= 5; ++step) {
    for (size_t p = 0; p < 2; ++p) {
      const at::Tensor gradient = at::randn({7, 5}, at::kDouble);
      parameters[p].value.mutable_grad() = gradient.clone();
      naive_adamw(w[p], m[p], v[p], to_vector(gradient * scale), 1e-2, p == 0 ? 0.1 : 0.0, options, step);
    }
    optimizer.update(1e-2, scale, step);
  }
  for (size_t p = 0; p < 2; ++p) {
    EXPECT_TRUE(testing::near(parameters[p].value.detach().flatten(), at::tensor(w[p], at::kDouble), 1e-12));
    EXPECT_TRUE(testing::near(optimizer.first_moments()[p].flatten(), at::tensor(m[p], at::kDouble), 1e-12));
    EXPECT_TRUE(testing::near(optimizer.second_moments()[p].flatten(), at::tensor(v[p], at::kDouble), 1e-12));
  }
}

}  // namespace
}  // namespace moe
