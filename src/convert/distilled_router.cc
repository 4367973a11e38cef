#include "convert/distilled_router.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/error.h"
#include "common/rng.h"
#include "model/feed_forward.h"
#include "model/ops.h"

// T tokens of all ranks, D hidden, E experts, F neurons. Sums over tokens, experts and neurons are plain loops in one
// order; products of rows are those of ops::linear, whose rows have bits of their own.
namespace moe {
namespace {

constexpr int64_t kHeldOutOf = 20;        ///< one token of so many is kept aside
constexpr int kEpochBits = 14;            ///< of the number of a stream; the others are of the layer
constexpr int64_t kTokensOfABlock = 256;  ///< whose activations of all neurons are there

/// What an expert is wanted by, from what its neurons give. [t, E] double
at::Tensor wanted_by(const at::Tensor& h_tF, const std::vector<std::vector<int32_t>>& neurons,
                     const std::string& measure) {
  const auto experts = static_cast<int64_t>(neurons.size()), width = h_tF.size(1);
  at::Tensor wanted_tE = at::empty({h_tF.size(0), experts}, at::kDouble);
  auto* wanted = wanted_tE.mutable_data_ptr<double>();
  const float* h = h_tF.const_data_ptr<float>();
  const auto part = [&measure](double value) {
    if (measure == "l1") return std::abs(value);
    if (measure == "l2") return value * value;
    return measure == "positive" ? std::max(value, 0.0) : value;
  };
  for (int64_t t = 0; t < h_tF.size(0); ++t, h += width) {
    for (const std::vector<int32_t>& expert : neurons) {
      double sum = 0;
      for (const int32_t neuron : expert) sum += part(h[neuron]);
      *wanted++ = measure == "plain" ? std::abs(sum) : sum;
    }
  }
  return wanted_tE;
}

at::Tensor wanted_experts(const RouterRequest& request) {
  const at::Tensor& x_TD = request.features->local_TD;
  const FeedForwardWeights& dense = *request.dense;
  const bool is_gate = request.options.choice("activation") == "gate" && dense.gate.defined();
  std::vector<at::Tensor> all{at::empty({0, request.experts}, at::kDouble)};
  for (int64_t first = 0; first < x_TD.size(0); first += kTokensOfABlock) {
    const at::Tensor x_tD = x_TD.slice(0, first, std::min(x_TD.size(0), first + kTokensOfABlock));
    // silu(gate x), or the product with up x: of ones the first.
    const at::Tensor gate_tF = is_gate ? ops::linear(x_tD, dense.gate, dense.gate_bias) : at::Tensor();
    const at::Tensor h_tF = is_gate ? ops::swiglu(gate_tF, at::ones_like(gate_tF)) : neuron_activations(dense, x_tD);
    all.push_back(wanted_by(h_tF.to(at::kFloat).contiguous(), request.neurons, request.options.choice("measure")));
  }
  return at::cat(all);
}

/// The `count` largest, the lower of equal ones first.
template <typename Number>
std::vector<int64_t> largest(const Number* values, int64_t all, int64_t count) {
  std::vector<int64_t> order(all);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [values](int64_t a, int64_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

/// A matrix that is learned, with its moments.
struct Learned {
  at::Tensor value;
  std::vector<double> gradient{}, first{}, second{};

  explicit Learned(const at::Tensor& from)
      : value(from.to(at::kFloat).contiguous().clone()),
        gradient(value.numel(), 0),
        first(value.numel(), 0),
        second(value.numel(), 0) {}

  /// gradient += dz^T x, token after token.
  void add(const std::vector<double>& dz_tE, const at::Tensor& x_tD) {
    const int64_t tokens = x_tD.size(0), width = x_tD.size(1), experts = value.size(0);
    const float* x = x_tD.const_data_ptr<float>();
    for (int64_t t = 0; t < tokens; ++t, x += width) {
      for (int64_t e = 0; e < experts; ++e) {
        const double factor = dz_tE[t * experts + e];
        double* const row = gradient.data() + e * width;
        for (int64_t d = 0; d < width; ++d) row[d] += factor * x[d];
      }
    }
  }

  /// AdamW without decay: beta 0.9 and 0.999, epsilon 1e-8.
  void update(double rate, int64_t step) {
    constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
    const double of_first = 1 - std::pow(kBeta1, static_cast<double>(step)),
                 of_second = 1 - std::pow(kBeta2, static_cast<double>(step));
    float* const data = value.mutable_data_ptr<float>();
    for (size_t i = 0; i < gradient.size(); ++i) {
      first[i] = kBeta1 * first[i] + (1 - kBeta1) * gradient[i];
      second[i] = kBeta2 * second[i] + (1 - kBeta2) * gradient[i] * gradient[i];
      data[i] -= static_cast<float>(rate * (first[i] / of_first) / (std::sqrt(second[i] / of_second) + kEpsilon));
      gradient[i] = 0;
    }
  }
};

/// Tokens with what is wanted of them.
struct Lessons {
  at::Tensor x_tD;       ///< float, contiguous
  at::Tensor wanted_tE;  ///< double, contiguous

  int64_t size() const { return x_tD.size(0); }
  Lessons taken(const std::vector<int64_t>& tokens) const {
    const at::Tensor places = at::tensor(tokens, at::kLong);
    return {x_tD.index_select(0, places).contiguous(), wanted_tE.index_select(0, places).contiguous()};
  }
};

class Distillation {
 public:
  Distillation(const RouterRequest& request, const at::Tensor& first_ED, Lessons lessons)
      : request_(request),
        experts_(request.experts),
        is_mlp_(request.gate == RouterGate::kMlp),
        is_kl_(request.options.choice("loss") == "kl"),
        first_(first_ED),
        second_(at::eye(request.experts)) {
    std::vector<int64_t> learned, held_out;
    for (int64_t t = 0; t < lessons.size(); ++t) (t % kHeldOutOf == kHeldOutOf - 1 ? held_out : learned).push_back(t);
    learned_ = lessons.taken(learned);
    held_out_ = held_out.empty() ? learned_ : lessons.taken(held_out);
  }

  InitialRouter run() {
    const int64_t epochs = request_.options.whole("epochs");
    const double peak = request_.options.number("learning_rate");
    RouterLessons lessons;
    lessons.recall = examine(lessons);
    RouterWeights best = weights();
    double rate = peak, last_gain = lessons.recall;
    int64_t since_gain = 0;
    for (int64_t epoch = 0; epoch < epochs; ++epoch) {
      run_epoch(epoch, rate);
      const double found = examine(lessons);
      if (found > lessons.recall) {
        lessons.recall = found;
        best = weights();
      }
      // v1 2.7: 0.9 times the rate after 10 epochs without 5 % more, at least 1 % of the first.
      since_gain = found > last_gain * 1.05 ? 0 : since_gain + 1;
      if (since_gain == 0) last_gain = found;
      if (since_gain < 10) continue;
      rate = std::max(0.9 * rate, 0.01 * peak);
      since_gain = 0;
    }
    return {std::move(best), std::move(lessons)};
  }

 private:
  RouterWeights weights() const {
    RouterWeights router{.weight_ED = first_.value.clone()};
    if (is_mlp_) router.out_weight_EE = second_.value.clone();
    return router;
  }

  at::Tensor logits_of(const at::Tensor& x_tD) const {
    return router_logits(x_tD, {.weight_ED = first_.value, .out_weight_EE = second_.value}, request_.gate).contiguous();
  }

  /// Loss and recall, the share of the top_k wanted that are chosen, on the tokens aside; both go to `lessons`. Returns
  /// the recall.
  double examine(RouterLessons& lessons) const {
    const at::Tensor logits_tE = logits_of(held_out_.x_tD);
    const float* logits = logits_tE.const_data_ptr<float>();
    const auto* wanted = held_out_.wanted_tE.const_data_ptr<double>();
    int64_t found = 0;
    double loss = 0;
    for (int64_t t = 0; t < held_out_.size(); ++t, logits += experts_, wanted += experts_) {
      const std::vector<int64_t> chosen = largest(logits, experts_, request_.top_k);
      for (const int64_t expert : largest(wanted, experts_, request_.top_k))
        found += std::count(chosen.begin(), chosen.end(), expert);
      loss += loss_of(logits, wanted);
    }
    lessons.losses.push_back(loss / static_cast<double>(held_out_.size()));
    lessons.recalls.push_back(static_cast<double>(found) / static_cast<double>(held_out_.size() * request_.top_k));
    return lessons.recalls.back();
  }

  /// Of one token, what gradient_of_loss() is the gradient of.
  double loss_of(const float* logits, const double* wanted) const {
    double loss = 0;
    if (is_kl_) {
      const std::vector<double> of_logits = softmax(logits), of_wanted = softmax(wanted);
      for (int64_t e = 0; e < experts_; ++e) {
        if (of_wanted[e] > 0)
          loss += of_wanted[e] * (std::log(of_wanted[e]) - std::log(std::max(of_logits[e], 1e-300)));
      }
      return loss;
    }
    for (int64_t e = 0; e < experts_; ++e) {
      const double z = logits[e];  // log(1 + exp(z)), which does not overflow
      loss += std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)));
    }
    for (const int64_t expert : largest(wanted, experts_, request_.top_k)) loss -= logits[expert];
    return loss / static_cast<double>(experts_);
  }

  void run_epoch(int64_t epoch, double rate) {
    const int64_t batch = request_.options.whole("batch_tokens");
    const std::vector<int64_t> order = random_permutation(
        learned_.size(),
        CounterRng(request_.seed, kStreamDistillation, static_cast<uint32_t>(request_.layer << kEpochBits | epoch)));
    for (int64_t first = 0; first < learned_.size(); first += batch) {
      const int64_t last = std::min(learned_.size(), first + batch);
      learn(learned_.taken({order.begin() + first, order.begin() + last}), rate);
    }
  }

  void learn(const Lessons& lessons, double rate) {
    const at::Tensor logits_tE = logits_of(lessons.x_tD);
    const std::vector<double> dz_tE = gradient_of_loss(lessons, logits_tE);
    ++step_;
    if (is_mlp_) {
      // B tanh(A x): through B, and through tanh.
      const at::Tensor hidden_tE = at::tanh(ops::linear(lessons.x_tD, first_.value).to(at::kDouble));
      std::vector<double> da_tE(dz_tE.size(), 0);
      const float* const out = second_.value.const_data_ptr<float>();
      const auto* const hidden = hidden_tE.const_data_ptr<double>();
      for (int64_t t = 0; t < lessons.size(); ++t) {
        for (int64_t i = 0; i < experts_; ++i) {
          double sum = 0;
          for (int64_t e = 0; e < experts_; ++e) sum += dz_tE[t * experts_ + e] * out[e * experts_ + i];
          da_tE[t * experts_ + i] = sum * (1 - hidden[t * experts_ + i] * hidden[t * experts_ + i]);
        }
      }
      second_.add(dz_tE, hidden_tE.to(at::kFloat).contiguous());
      first_.add(da_tE, lessons.x_tD);
      second_.update(rate, step_);
    } else {
      first_.add(dz_tE, lessons.x_tD);
    }
    first_.update(rate, step_);
  }

  /// By the logits. "bce": binary cross-entropy with 1 for the wanted top_k, mean over tokens and experts; "kl": of the
  /// softmax of what is wanted to that of the logits, mean over tokens.
  std::vector<double> gradient_of_loss(const Lessons& lessons, const at::Tensor& logits_tE) const {
    std::vector<double> dz_tE(logits_tE.numel());
    const float* logits = logits_tE.const_data_ptr<float>();
    const auto* wanted = lessons.wanted_tE.const_data_ptr<double>();
    double* dz = dz_tE.data();
    const auto tokens = static_cast<double>(lessons.size());
    for (int64_t t = 0; t < lessons.size(); ++t, logits += experts_, wanted += experts_, dz += experts_) {
      if (is_kl_) {
        const std::vector<double> of_logits = softmax(logits), of_wanted = softmax(wanted);
        for (int64_t e = 0; e < experts_; ++e) dz[e] = (of_logits[e] - of_wanted[e]) / tokens;
        continue;
      }
      for (int64_t e = 0; e < experts_; ++e) dz[e] = 1 / (1 + std::exp(-static_cast<double>(logits[e])));
      for (const int64_t expert : largest(wanted, experts_, request_.top_k)) dz[expert] -= 1;
      for (int64_t e = 0; e < experts_; ++e) dz[e] /= tokens * static_cast<double>(experts_);
    }
    return dz_tE;
  }

  template <typename Number>
  std::vector<double> softmax(const Number* values) const {
    std::vector<double> p(values, values + experts_);
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& one : p) sum += one = std::exp(one - top);
    for (double& one : p) one /= sum;
    return p;
  }

  const RouterRequest& request_;
  const int64_t experts_;
  const bool is_mlp_, is_kl_;
  Learned first_, second_;
  Lessons learned_{}, held_out_{};
  int64_t step_ = 0;
};

/// Of each expert the mean of its neurons' rows of the gate, or of up where there is none, at length 1 each.
at::Tensor mean_directions(const RouterRequest& request) {
  const at::Tensor rows_FD =
      (request.dense->gate.defined() ? request.dense->gate : request.dense->up).to(at::kDouble).contiguous();
  const int64_t width = rows_FD.size(1);
  at::Tensor means_ED = at::zeros({request.experts, width}, at::kDouble);
  auto* mean = means_ED.mutable_data_ptr<double>();
  for (const std::vector<int32_t>& expert : request.neurons) {
    for (const int32_t neuron : expert) {
      const auto* const row = rows_FD.const_data_ptr<double>() + neuron * width;
      double squares = 0;
      for (int64_t d = 0; d < width; ++d) squares += row[d] * row[d];
      const double factor = 1 / (std::max(std::sqrt(squares), 1e-12) * static_cast<double>(expert.size()));
      for (int64_t d = 0; d < width; ++d) mean[d] += factor * row[d];
    }
    mean += width;
  }
  return means_ED.to(at::kFloat);
}

}  // namespace

const std::vector<MethodOption>& distillation_options() {
  static const std::vector<MethodOption> options{
      {.name = "activation",
       .help = "what a neuron gives: silu(gate x) up x, or silu(gate x)",
       .fallback = "product",
       .choices = {"product", "gate"}},
      {.name = "measure",
       .help = "what an expert is wanted by: the sum over its neurons of |a|, a^2 or max(a, 0), or |the sum of a|",
       .fallback = "l1",
       .choices = {"l1", "l2", "positive", "plain"}},
      {.name = "loss",
       .help = "binary cross-entropy with the wanted top_k, or KL to the softmax of what is wanted",
       .fallback = "bce",
       .choices = {"bce", "kl"}},
      {.name = "epochs",
       .help = "times that the text is gone through",
       .fallback = "30",
       .published = "100",
       .least = 1,
       .most = 10000,
       .is_whole = true},
      {.name = "learning_rate", .help = "first rate of AdamW", .fallback = "0.003", .published = "0.1", .least = 1e-8},
      {.name = "batch_tokens",
       .help = "tokens of a step",
       .fallback = "256",
       .published = "1024",
       .least = 1,
       .most = 1000000,
       .is_whole = true}};
  return options;
}

InitialRouter distilled_router(const RouterRequest& request, Communicator& world) {
  MOE_CHECK(request.dense != nullptr && static_cast<int64_t>(request.neurons.size()) == request.experts,
            "a router is distilled from experts");
  const at::Tensor wanted_TE = world.all_gather(wanted_experts(request), "experts that tokens want"),
                   x_TD = world.all_gather(request.features->local_TD.to(at::kFloat).contiguous(), "FFN inputs");
  InitialRouter router =
      Distillation(request, mean_directions(request), {x_TD.contiguous(), wanted_TE.contiguous()}).run();
  if (request.scaling == "raw") return router;
  const double deviation =
      std::max(router_logit_deviation(router.weights, request.gate, *request.features, world), 1e-12);
  at::Tensor& last = request.gate == RouterGate::kMlp ? router.weights.out_weight_EE : router.weights.weight_ED;
  last = last / deviation;
  return router;
}

}  // namespace moe
