#include "convert/methods/upcycle.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/divisors.h"
#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

const std::vector<MethodOption>& upcycle_options() {
  static const std::vector<MethodOption> options{
      {.name = "variant",
       .help = "an expert is the FFN, the FFN with noise, with neurons drawn anew, or one of its shards",
       .fallback = "copy",
       .choices = {"copy", "noise", "drop", "granular"}},
      {.name = "noise", .help = "of variant noise: its standard deviation, in that of the matrix", .fallback = "0.05"},
      {.name = "rate", .help = "of variant drop: share of an expert's neurons drawn anew (r)", .fallback = "0.5"},
      {.name = "groups",
       .help = "of variant granular: shards of a copy (G)",
       .fallback = "2",
       .least = 1,
       .most = 1024,
       .is_whole = true},
      {.name = "scaled",
       .help =
           "of variant granular: where the scale stands at which copies are the FFN, in scale, or as its root in the "
           "weights, which is not exact",
       .fallback = "output",
       .published = "weights",
       .choices = {"output", "weights"}}};
  return options;
}

/// Shards of a copy.
int64_t groups_of(const MethodOptions& options) {
  return options.choice("variant") == "granular" ? options.whole("groups") : 1;
}

int64_t groups_of(const v1::FfnExpertsSpec& ffn) {
  v1::ConvertSpec spec;
  *spec.mutable_ffn() = ffn;
  return groups_of(MethodOptions(upcycle_options(), spec));
}

std::string upcycle_size_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  const auto given = ffn.options().find("variant");
  const std::string variant = given == ffn.options().end() ? "copy" : given->second;
  for (const auto& [option, reader] : {std::pair("noise", "noise"), std::pair("rate", "drop"),
                                       std::pair("groups", "granular"), std::pair("scaled", "granular")}) {
    if (ffn.options().contains(option) && variant != reader) {
      return concat("ffn.options.", option, " has no effect with ffn.options.variant ", variant,
                    "; remove it or set variant: ", reader);
    }
  }
  const int64_t groups = groups_of(ffn);
  if (config.intermediate_size % groups != 0) {
    return concat("ffn.options.groups ", groups, " does not divide the FFN width ", config.intermediate_size,
                  "; use one of ", divisors_of(config.intermediate_size));
  }
  for (const auto& [field, value] : {std::pair("ffn.experts", ffn.experts()), std::pair("ffn.top_k", ffn.top_k())}) {
    if (value % groups != 0) {
      return concat(field, " ", value, " is not a multiple of ffn.options.groups ", groups,
                    ", the experts that one copy of the FFN is cut into and a token takes together; use ", groups, ", ",
                    2 * groups, ", ...");
    }
  }
  return "";
}

LayerWidths upcycled_widths(const ModelConfig& config, const v1::ConvertSpec& spec) {
  return {std::vector<int64_t>(spec.ffn().experts(), config.intermediate_size / groups_of(spec.ffn()))};
}

struct Moments {
  double mean = 0, deviation = 0;
};

/// In the order of the values, so that no bit depends on threads.
Moments moments_of(const at::Tensor& values) {
  const float* const value = values.const_data_ptr<float>();
  const auto count = static_cast<double>(values.numel());
  Moments moments;
  for (int64_t i = 0; i < values.numel(); ++i) moments.mean += value[i];
  moments.mean /= count;
  for (int64_t i = 0; i < values.numel(); ++i) {
    const double away = value[i] - moments.mean;
    moments.deviation += away * away;
  }
  moments.deviation = std::sqrt(moments.deviation / count);
  return moments;
}

/// Standard normal, a stream of its own for each row.
at::Tensor normal_numbers(at::IntArrayRef shape, uint64_t seed) {
  at::Tensor numbers = at::empty(shape, at::kFloat);
  const int64_t columns = shape[1];
  float* const data = numbers.mutable_data_ptr<float>();
  at::parallel_for(0, shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      CounterRng rng(seed, kStreamUpcycle, static_cast<uint32_t>(row));
      for (int64_t i = row * columns; i < (row + 1) * columns; ++i) data[i] = static_cast<float>(rng.normal());
    }
  });
  return numbers;
}

/// Seed of an expert's random numbers.
uint64_t expert_seed(const LayerInputs& inputs, int64_t expert) {
  CounterRng rng(inputs.seed, kStreamUpcycle, static_cast<uint32_t>(inputs.layer));
  for (int64_t before = 0; before < expert; ++before) rng.next_u64();
  return rng.next_u64();
}

using Remake = std::function<FeedForwardWeights(const FeedForwardWeights& taken)>;

/// Each matrix apart: `make` has it, contiguous, and a seed of its own.
Remake by_matrix(uint64_t seed, std::function<at::Tensor(const at::Tensor& taken, uint64_t seed)> make) {
  return [seed, make = std::move(make)](const FeedForwardWeights& taken) {
    FeedForwardWeights made = taken;
    CounterRng seeds(seed, kStreamUpcycle);
    for (at::Tensor* const matrix : {&made.gate, &made.up, &made.down}) {
      const uint64_t own = seeds.next_u64();
      if (matrix->defined()) *matrix = make(matrix->contiguous(), own);
    }
    return made;
  };
}

Remake with_noise(double noise, uint64_t seed) {
  return by_matrix(seed, [noise](const at::Tensor& taken, uint64_t own) {
    return taken + normal_numbers(taken.sizes(), own) * (noise * moments_of(taken).deviation);
  });
}

Remake drawn_anew(uint64_t seed) {
  return by_matrix(seed, [](const at::Tensor& taken, uint64_t own) {
    const Moments moments = moments_of(taken);
    return normal_numbers(taken.sizes(), own) * moments.deviation + moments.mean;
  });
}

/// The neurons that stay, then those that are drawn anew.
std::vector<NeuronRun> partly_drawn_anew(int64_t neurons, double rate, uint64_t seed) {
  // A product that is whole but for its rounding is whole.
  const auto drawn = static_cast<int64_t>(std::floor(rate * static_cast<double>(neurons) + 1e-9));
  const std::vector<int64_t> order = random_permutation(neurons, CounterRng(seed, kStreamUpcycle, 1));
  std::vector<int32_t> stay(order.begin() + drawn, order.end()), anew(order.begin(), order.begin() + drawn);
  std::sort(stay.begin(), stay.end());
  std::sort(anew.begin(), anew.end());
  std::vector<NeuronRun> runs;
  if (!stay.empty()) runs.push_back({.neurons = index_list(std::move(stay))});
  if (!anew.empty()) runs.push_back({.neurons = index_list(std::move(anew)), .remake = drawn_anew(seed)});
  return runs;
}

std::vector<IndexList> shards_of(int64_t neurons, int64_t groups) {
  std::vector<IndexList> shards;
  for (int64_t i = 0; i < groups; ++i) {
    std::vector<int32_t> shard(neurons / groups);
    std::iota(shard.begin(), shard.end(), static_cast<int32_t>(i * neurons / groups));
    shards.push_back(index_list(std::move(shard)));
  }
  return shards;
}

/// Factor of each matrix of a shard: gate, up and down share the scale at which whole copies are the dense function, as
/// the paper has it. With the output as a product of the three it would be that scale; with silu it is about that.
double matrix_factor(const LayerInputs& inputs, int64_t groups) {
  if (inputs.options.choice("variant") != "granular" || inputs.options.choice("scaled") == "output") return 1;
  const std::string& norm = inputs.spec.router().topk_norm();
  const auto shards = static_cast<double>(groups), experts = inputs.spec.ffn().experts() * 1.0,
             top_k = inputs.spec.ffn().top_k() * 1.0;
  const double scale = norm == "renorm" ? shards : norm == "raw" ? experts * shards / top_k : shards / top_k;
  return std::pow(scale, inputs.config.is_gated ? 1.0 / 3 : 1.0 / 2);
}

LayerPlan plan_upcycled(const LayerInputs& inputs, Communicator& /*world*/) {
  const int64_t neurons = inputs.config.intermediate_size, groups = groups_of(inputs.options);
  const std::string& variant = inputs.options.choice("variant");
  const std::vector<IndexList> shards = shards_of(neurons, groups);
  const double factor = matrix_factor(inputs, groups);
  LayerPlan plan;
  for (int64_t expert = 0; expert < inputs.spec.ffn().experts(); ++expert) {
    const uint64_t seed = expert_seed(inputs, expert);
    if (variant == "drop") {
      plan.experts.push_back({partly_drawn_anew(neurons, inputs.options.number("rate"), seed)});
    } else {
      NeuronRun run{.neurons = shards[expert % groups], .in = factor, .down = factor};
      if (variant == "noise") run.remake = with_noise(inputs.options.number("noise"), seed);
      plan.experts.push_back({{std::move(run)}});
    }
  }
  return plan;
}

}  // namespace

ConversionMethod upcycle() {
  return {.summary =
              "copies of the whole FFN: as they are, with noise, partly drawn anew, or in shards "
              "(sparse, drop- and granular upcycling)",
          .is_partition = false,
          .plan = plan_upcycled,
          .widths = upcycled_widths,
          .options = upcycle_options(),
          .size_problem = upcycle_size_problem,
          .router_group = [](const MethodOptions& options) { return groups_of(options); }};
}

}  // namespace moe
