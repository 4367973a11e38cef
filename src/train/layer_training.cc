#include "train/layer_training.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/error.h"
#include "common/rng.h"
#include "model/layer_weights.h"
#include "model/moe/moe_layer.h"
#include "train/lr_schedule.h"
#include "train/optimizer.h"

namespace moe {
namespace {

/// Shares of the peak, and of the steps.
constexpr double kLearningRateFloor = 0.1;
constexpr int64_t kWarmupShare = 20;

/// Tokens in random order, over and over, so that each is seen as often as any other.
class TokenOrder {
 public:
  TokenOrder(int64_t tokens, uint64_t seed, int64_t layer)
      : tokens_(tokens), layer_(static_cast<uint32_t>(layer)), passes_(seed, kStreamReconstruction, layer_) {}

  /// [count], count < tokens
  at::Tensor next(int64_t count) {
    std::vector<int64_t> taken;
    while (static_cast<int64_t>(taken.size()) < count) {
      if (at_ == order_.size()) {
        order_ = random_permutation(tokens_, CounterRng(passes_.next_u64(), kStreamReconstruction, layer_));
        at_ = 0;
      }
      taken.push_back(order_[at_++]);
    }
    return at::tensor(taken, at::kLong);
  }

 private:
  int64_t tokens_;
  uint32_t layer_;
  CounterRng passes_;
  std::vector<int64_t> order_;
  size_t at_ = 0;
};

/// Of a token on average; summed token by token, in the same order at any number of threads.
double mean_energy(const at::Tensor& y_TD) {
  const at::Tensor square_T = y_TD.to(at::kDouble).square().sum(1).contiguous();
  const auto* const first = square_T.const_data_ptr<double>();
  double sum = 0;
  for (int64_t t = 0; t < square_T.numel(); ++t) sum += first[t];
  return sum / static_cast<double>(std::max<int64_t>(1, square_T.numel()));
}

std::vector<ParameterGroup> groups_of(const LayerTraining& training) {
  std::vector<ParameterGroup> groups;
  for (size_t i = 0; i < training.parameters.size(); ++i) {
    groups.push_back({.is_trained = training.is_trained.at(i)});
    training.parameters[i].value.set_requires_grad(training.is_trained[i]);
  }
  return groups;
}

/// The squared error over the energy of what is wanted, whose gradient it leaves in the parameters.
double backward(const MoeFeedForward& mixture, const LayerTraining& training, const at::Tensor& x_TD,
                const at::Tensor& y_TD, double energy) {
  LocalDispatcher dispatcher;
  const at::Tensor given = moe_layer(mixture.weights, mixture.options, x_TD, dispatcher, training.layer).y_TD;
  at::Tensor loss = (given - y_TD).square().sum() / (energy * static_cast<double>(x_TD.size(0)));
  const auto value = loss.item<double>();
  if (std::isfinite(value) && loss.requires_grad()) loss.backward();
  return value;
}

}  // namespace

bool train_layer(const LayerTraining& training) {
  const int64_t tokens = training.inputs_TD.size(0);
  const double energy = mean_energy(training.wanted_TD);
  if (tokens == 0 || energy == 0) return true;  // nothing to learn
  const at::AutoGradMode with_gradients(true);
  AdamW optimizer(training.parameters, {.weight_decay = 0}, groups_of(training));
  const MoeFeedForward mixture = mixture_of(training.config, training.layer, training.parameters);
  const LrSchedule schedule{.peak = training.learning_rate,
                            .floor = kLearningRateFloor,
                            .warmup_steps = training.steps / kWarmupShare,
                            .steps = training.steps};
  TokenOrder order(tokens, training.seed, training.layer);
  for (int64_t step = 0; step < training.steps; ++step) {
    if (training.should_stop && training.should_stop()) return false;
    at::Tensor x_TD = training.inputs_TD, y_TD = training.wanted_TD;
    if (training.batch_tokens < tokens) {
      const at::Tensor taken = order.next(training.batch_tokens);
      x_TD = x_TD.index_select(0, taken);
      y_TD = y_TD.index_select(0, taken);
    }
    const double error = backward(mixture, training, x_TD, y_TD, energy);
    if (!std::isfinite(error)) {
      throw Diverged(concat("the reconstruction of layer ", training.layer, " diverged: its relative error is ", error,
                            " at step ", step + 1, " of ", training.steps,
                            "; use a smaller reconstruction.learning_rate (", training.learning_rate, ")"));
    }
    optimizer.update(learning_rate(schedule, step), 1, step + 1);
    optimizer.zero_gradients();
  }
  for (Parameter& parameter : training.parameters) parameter.value.set_requires_grad(false);
  return true;
}

}  // namespace moe
