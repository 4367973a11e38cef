#include "convert/methods/analytic.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/balanced_assignment.h"
#include "convert/ranked_neurons.h"
#include "convert/request_check.h"
#include "convert/ridge_regression.h"
#include "model/ops.h"

namespace moe {
namespace {

/// 1 / |row|, summed in the order of the row; 1 for a row of zeros. [n] float
at::Tensor inverse_lengths(const at::Tensor& rows_nD) {
  const at::Tensor rows = rows_nD.contiguous();
  at::Tensor inverse_n = at::empty({rows.size(0)}, at::kFloat);
  const float* value = rows.const_data_ptr<float>();
  for (int64_t i = 0; i < rows.size(0); ++i) {
    double sum = 0;
    for (int64_t d = 0; d < rows.size(1); ++d, ++value) sum += static_cast<double>(*value) * *value;
    inverse_n.mutable_data_ptr<float>()[i] = sum > 0 ? static_cast<float>(1 / std::sqrt(sum)) : 1.0F;
  }
  return inverse_n;
}

/// What unit rows give for x.
class UnitRows {
 public:
  UnitRows(at::Tensor rows_ND, at::Tensor bias_N)
      : rows_ND_(std::move(rows_ND)), bias_N_(std::move(bias_N)), inverse_N_(inverse_lengths(rows_ND_)) {}
  at::Tensor of(const at::Tensor& x_TD) const { return ops::linear(x_TD, rows_ND_, bias_N_) * inverse_N_; }
  at::Tensor rows() const { return rows_ND_ * inverse_N_.unsqueeze(1); }

 private:
  at::Tensor rows_ND_, bias_N_, inverse_N_;
};

/// Gate and up rows of the neurons, those of all where none are named.
struct UnitNeurons {
  UnitRows gate, up;

  static UnitNeurons of(const FeedForwardWeights& ffn) { return {{ffn.gate, ffn.gate_bias}, {ffn.up, ffn.up_bias}}; }
  static UnitNeurons of(const FeedForwardWeights& ffn, const std::vector<int32_t>& neurons) {
    const at::Tensor taken = at::tensor(neurons, at::kInt);
    const auto rows = [&taken](const at::Tensor& all) { return all.defined() ? all.index_select(0, taken) : all; };
    return {{rows(ffn.gate), rows(ffn.gate_bias)}, {rows(ffn.up), rows(ffn.up_bias)}};
  }
};

/// The neurons that tokens of this rank mark.
class Marks {
 public:
  Marks(const LayerInputs& inputs, int64_t per_token) : per_token_(per_token) {
    constexpr int64_t kTokens = 256;  // at a time, of whose activations of all neurons there are three
    const at::Tensor& x_TD = inputs.features->ffn_inputs.local_TD;
    const UnitNeurons neurons = UnitNeurons::of(inputs.dense_ffn());
    const at::Tensor inverse_T = inverse_lengths(x_TD);
    for (int64_t first = 0; first < x_TD.size(0); first += kTokens) {
      const int64_t last = std::min(x_TD.size(0), first + kTokens);
      const at::Tensor x = x_TD.slice(0, first, last), inverse = inverse_T.slice(0, first, last).unsqueeze(1);
      add(ops::swiglu(neurons.gate.of(x) * inverse, neurons.up.of(x) * inverse).contiguous());
    }
  }

  /// Whether tokens of this rank could be compared; if not, they mark nothing.
  bool is_finite() const { return is_finite_; }
  int64_t tokens() const { return static_cast<int64_t>(marked_TK_.size()) / per_token_; }
  const int32_t* begin(int64_t token) const { return marked_TK_.data() + token * per_token_; }
  const int32_t* end(int64_t token) const { return begin(token) + per_token_; }

 private:
  /// Of equal activations the lower neuron is marked.
  void add(const at::Tensor& h_tF) {
    is_finite_ = is_finite_ && h_tF.isfinite().all().item<bool>();
    if (!is_finite_) return;
    const int64_t neurons = h_tF.size(1);
    std::vector<int32_t> order(neurons);
    for (int64_t t = 0; t < h_tF.size(0); ++t) {
      const float* const h = h_tF.const_data_ptr<float>() + t * neurons;
      std::iota(order.begin(), order.end(), 0);
      std::nth_element(order.begin(), order.begin() + (per_token_ - 1), order.end(), [h](int32_t a, int32_t b) {
        const float of_a = std::abs(h[a]), of_b = std::abs(h[b]);
        return of_a != of_b ? of_a > of_b : a < b;
      });
      marked_TK_.insert(marked_TK_.end(), order.begin(), order.begin() + per_token_);
    }
  }

  int64_t per_token_;
  bool is_finite_ = true;
  std::vector<int32_t> marked_TK_;
};

void sum_over_ranks(std::vector<int64_t>& counts, Communicator& world, const char* op) {
  at::Tensor all = at::tensor(counts, at::kLong);
  world.all_reduce_sum(all, op);
  counts.assign(all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel());
}

/// Tokens that mark each neuron. [F]
std::vector<int64_t> mark_counts(const Marks& marks, int64_t neurons, Communicator& world) {
  std::vector<int64_t> counts(neurons, 0);
  for (int64_t t = 0; t < marks.tokens(); ++t) {
    for (const int32_t* neuron = marks.begin(t); neuron != marks.end(t); ++neuron) ++counts[*neuron];
  }
  sum_over_ranks(counts, world, "marks of neurons");
  return counts;
}

/// Tokens that mark both a neuron and one of the first `centroids` of them. [neurons, centroids]
std::vector<int64_t> common_marks(const Marks& marks, const std::vector<int32_t>& neurons, int64_t centroids,
                                  int64_t all, Communicator& world) {
  std::vector<int64_t> place(all, -1), common(neurons.size() * centroids, 0), present;
  for (size_t i = 0; i < neurons.size(); ++i) place[neurons[i]] = static_cast<int64_t>(i);
  for (int64_t t = 0; t < marks.tokens(); ++t) {
    present.clear();
    for (const int32_t* neuron = marks.begin(t); neuron != marks.end(t); ++neuron) {
      if (place[*neuron] >= 0 && place[*neuron] < centroids) present.push_back(place[*neuron]);
    }
    for (const int32_t* neuron = marks.begin(t); neuron != marks.end(t); ++neuron) {
      if (place[*neuron] < 0) continue;
      for (const int64_t centroid : present) ++common[place[*neuron] * centroids + centroid];
    }
  }
  sum_over_ranks(common, world, "marks that neurons share with centroids");
  return common;
}

/// The expert of each of `neurons`, the first of which are the centroids. L1 distances of columns of zeros and ones:
/// tokens that mark one of two and not the other.
std::vector<int32_t> assigned_experts(const Marks& marks, const std::vector<int64_t>& counts,
                                      const std::vector<int32_t>& neurons, int64_t experts, Communicator& world) {
  const std::vector<int64_t> common = common_marks(marks, neurons, experts, static_cast<int64_t>(counts.size()), world);
  std::vector<double> costs;
  costs.reserve(common.size());
  for (size_t i = 0; i < neurons.size(); ++i) {
    for (int64_t c = 0; c < experts; ++c)
      costs.push_back(static_cast<double>(counts[neurons[i]] + counts[neurons[c]] - 2 * common[i * experts + c]));
  }
  return balanced_assignment(costs, even_capacities(static_cast<int64_t>(neurons.size()), experts));
}

/// Of each expert the neuron whose mark column a is nearest to the mean m of its neurons': the sum over tokens of
/// |a - m| is, but for what all share, |a| - 2 sum of m over the tokens that a marks, here times the expert's width.
std::vector<int32_t> representatives(const Marks& marks, const std::vector<int64_t>& counts,
                                     const std::vector<std::vector<int32_t>>& experts, Communicator& world) {
  std::vector<int32_t> expert_of(counts.size(), -1);
  for (size_t e = 0; e < experts.size(); ++e) {
    for (const int32_t neuron : experts[e]) expert_of[neuron] = static_cast<int32_t>(e);
  }
  std::vector<int64_t> together(counts.size(), 0), marked(experts.size());
  for (int64_t t = 0; t < marks.tokens(); ++t) {
    std::fill(marked.begin(), marked.end(), 0);
    for (const int32_t* neuron = marks.begin(t); neuron != marks.end(t); ++neuron) {
      if (expert_of[*neuron] >= 0) ++marked[expert_of[*neuron]];
    }
    for (const int32_t* neuron = marks.begin(t); neuron != marks.end(t); ++neuron) {
      if (expert_of[*neuron] >= 0) together[*neuron] += marked[expert_of[*neuron]];
    }
  }
  sum_over_ranks(together, world, "marks of neurons together with their expert's");
  std::vector<int32_t> nearest;
  for (const std::vector<int32_t>& neurons : experts) {
    const auto distance = [&](int32_t neuron) {
      return static_cast<int64_t>(neurons.size()) * counts[neuron] - 2 * together[neuron];
    };
    nearest.push_back(*std::min_element(neurons.begin(), neurons.end(),
                                        [&distance](int32_t a, int32_t b) { return distance(a) < distance(b); }));
  }
  return nearest;
}

/// The linear rows nearest to the published scores on the tokens of all ranks, which each rank has to see whole.
at::Tensor fitted_router(const LayerInputs& inputs, const std::vector<int32_t>& neurons, Communicator& world) {
  const at::Tensor& x_TD = inputs.features->ffn_inputs.local_TD;
  const UnitNeurons representative = UnitNeurons::of(inputs.dense_ffn(), neurons);
  const at::Tensor scores_TE = ops::swiglu(representative.gate.of(x_TD), representative.up.of(x_TD)).abs();
  const at::Tensor all_TD = world.all_gather(x_TD.contiguous(), "FFN inputs for the router"),
                   all_TE = world.all_gather(scores_TE.contiguous(), "scores for the router");
  return ridge_regression(all_TD.contiguous(), all_TE.contiguous(), inputs.options.number("ridge"));
}

LayerPlan plan_analytic(const LayerInputs& inputs, Communicator& world) {
  const int64_t experts = inputs.spec.ffn().experts(), shared = equal_parts(inputs.config, inputs.spec).shared;
  const Marks marks(inputs, inputs.options.whole("marks"));
  if (any_rank(world, "activations that are not finite", !marks.is_finite())) throw_overflow(inputs.layer);
  const std::vector<int64_t> counts = mark_counts(marks, inputs.config.intermediate_size, world);
  const std::vector<int32_t> order = ranked_neurons(counts);
  std::vector<int32_t> kept(order.begin(), order.begin() + shared);
  const std::vector<int32_t> rest(order.begin() + shared, order.end());
  const std::vector<int32_t> expert_of = assigned_experts(marks, counts, rest, experts, world);
  std::vector<std::vector<int32_t>> parts(experts);
  for (size_t i = 0; i < rest.size(); ++i) parts[expert_of[i]].push_back(rest[i]);
  for (std::vector<int32_t>& neurons : parts) std::sort(neurons.begin(), neurons.end());
  std::sort(kept.begin(), kept.end());
  const std::vector<int32_t> nearest = representatives(marks, counts, parts, world);
  LayerPlan plan = plan_of_neurons(std::move(parts), std::move(kept));
  if (router_gate(inputs.spec.router()) == RouterGate::kProduct) {
    const UnitNeurons representative = UnitNeurons::of(inputs.dense_ffn(), nearest);
    plan.router_ED = representative.up.rows();
    plan.router_gate_ED = representative.gate.rows();
  } else {
    plan.router_ED = fitted_router(inputs, nearest, world);
  }
  return plan;
}

const std::vector<MethodOption>& analytic_options() {
  static const std::vector<MethodOption> options{
      {.name = "marks",
       .help = "neurons that each token marks (K_a)",
       .fallback = "10",
       .least = 1,
       .most = 100000,
       .is_whole = true},
      {.name = "ridge",
       .help = "penalty of the router's fit, in the mean square of a coordinate of its inputs",
       .fallback = "0.001",
       .least = 1e-9,
       .most = 1000}};
  return options;
}

std::string analytic_size_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  v1::ConvertSpec spec;
  *spec.mutable_ffn() = ffn;
  const int64_t marks = MethodOptions(analytic_options(), spec).whole("marks");
  if (marks > config.intermediate_size) {
    return concat("ffn.options.marks ", marks, " is more than the ", config.intermediate_size,
                  " neurons of the FFN; use fewer");
  }
  return division_problem(config, ffn);
}

}  // namespace

ConversionMethod analytic() {
  return {.summary =
              "shared neurons and experts by the tokens on which neurons are among the most active, with a "
              "router fitted to that (CMoE)",
          .is_partition = true,
          .plan = plan_analytic,
          .widths = equal_parts,
          .needs = {.weights = true, .hidden_states = true},
          .options = analytic_options(),
          .has_shared = true,
          .size_problem = analytic_size_problem,
          .has_router = true,
          .has_product_router = true,
          .linear_router_options = {"ridge"},
          .refusal = needs_gated_ffn};
}

}  // namespace moe
