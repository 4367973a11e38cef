#include "convert/methods/independent_clustering.h"

#include <utility>
#include <vector>

#include "common/rng.h"
#include "convert/balanced_kmeans.h"

namespace moe {
namespace {

LayerPlan plan_clustering(const LayerInputs& inputs, Communicator& world) {
  const KMeansResult found = balanced_kmeans(inputs.dense_ffn().up,
                                             {.clusters = inputs.spec.ffn().experts(),
                                              .seed = inputs.seed,
                                              .stream = kStreamNeuronClusters,
                                              .substream = static_cast<uint32_t>(inputs.layer)},
                                             world);
  std::vector<std::vector<int32_t>> experts(inputs.spec.ffn().experts());
  for (size_t neuron = 0; neuron < found.cluster_of.size(); ++neuron)
    experts[found.cluster_of[neuron]].push_back(static_cast<int32_t>(neuron));
  return plan_of_neurons(std::move(experts));
}

}  // namespace

ConversionMethod independent_clustering() {
  return {.summary = "equal clusters of the up rows, per layer (LLaMA-MoE v1)",
          .is_partition = true,
          .plan = plan_clustering,
          .widths = equal_parts,
          .needs = {.weights = true}};
}

}  // namespace moe
