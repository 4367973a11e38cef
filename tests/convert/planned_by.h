#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "convert/conversion_methods.h"
#include "testing/run_ranks.h"

namespace moe::testing {

/// One layer that a method of the list plans, without a model around it: an FFN, and documents of what it reads.
struct PlannedAlone {
  FeedForwardWeights ffn{};
  at::Tensor x_TD{};
  std::vector<int64_t> cu_seqlens{};
  v1::ConvertSpec spec{};
  ModelConfig config{};

  PlannedAlone(FeedForwardWeights weights, at::Tensor x, std::vector<int64_t> documents)
      : ffn(std::move(weights)), x_TD(std::move(x)), cu_seqlens(std::move(documents)) {
    config.model_type = "llama";
    config.hidden_size = x_TD.size(1);
    config.intermediate_size = ffn.up.size(0);
    config.num_layers = 1;
  }

  /// Documents are spread over the ranks; the plan is that of the last rank.
  LayerPlan plan(int ranks = 1) const {
    LayerPlan planned;
    const auto documents = static_cast<int64_t>(cu_seqlens.size()) - 1;
    run_ranks(ranks, [&](Communicator& world) {
      const int64_t first = documents * world.rank() / ranks, last = documents * (world.rank() + 1) / ranks;
      LayerFeatures features;
      features.ffn_inputs = {x_TD.slice(0, cu_seqlens[first], cu_seqlens[last]), cu_seqlens[first], x_TD.size(0)};
      features.cu_seqlens.clear();
      for (int64_t s = first; s <= last; ++s) features.cu_seqlens.push_back(cu_seqlens[s] - cu_seqlens[first]);
      Layer dense;
      dense.ffn = ffn;
      const ConversionMethod& method = conversion_methods().at(spec.ffn().method());
      const MethodOptions options(method.options, spec);
      LayerPlan mine = method.plan(
          {.config = config, .spec = spec, .seed = 7, .dense = &dense, .features = &features, .options = options},
          world);
      if (world.rank() == ranks - 1) planned = std::move(mine);
    });
    return planned;
  }
};

/// Neurons of an expert that takes whole ones, in its order.
inline std::vector<int32_t> neurons_of(const ExpertPlan& expert) {
  std::vector<int32_t> neurons;
  for (const NeuronRun& run : expert.runs) neurons.insert(neurons.end(), run.neurons->begin(), run.neurons->end());
  return neurons;
}

}  // namespace moe::testing
