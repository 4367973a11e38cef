#include "convert/methods/independent_clustering.h"

#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "convert/balanced_kmeans.h"

namespace moe {
namespace {

LayerPlan plan_clustering(const LayerInputs& inputs, Communicator& world) {
  const FeedForwardWeights& ffn = inputs.dense_ffn();
  const bool is_gate = inputs.options.choice("weights") == "gate", is_cosine = inputs.options.choice("metric") == "cos";
  const KMeansResult found =
      balanced_kmeans(is_gate ? ffn.gate : ffn.up,
                      {.clusters = inputs.spec.ffn().experts(),
                       .seed = inputs.seed,
                       .stream = kStreamNeuronClusters,
                       .substream = static_cast<uint32_t>(inputs.layer),
                       .restarts = inputs.options.whole("restarts"),
                       .distance = is_cosine ? KMeansDistance::kCosine : KMeansDistance::kSquared,
                       .leaves_self_out = !is_cosine},
                      world);
  std::vector<std::vector<int32_t>> experts(inputs.spec.ffn().experts());
  for (size_t neuron = 0; neuron < found.cluster_of.size(); ++neuron)
    experts[found.cluster_of[neuron]].push_back(static_cast<int32_t>(neuron));
  return plan_of_neurons(std::move(experts));
}

std::string clustering_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  const auto weights = ffn.options().find("weights");
  if (weights == ffn.options().end() || weights->second != "gate" || config.is_gated)
    return division_problem(config, ffn);
  return concat("ffn.options.weights is 'gate': ", needs_gated_ffn(config), "; use up");
}

}  // namespace

ConversionMethod independent_clustering() {
  return {.summary = "equal clusters of the neurons' up (or gate) rows, per layer (LLaMA-MoE v1)",
          .is_partition = true,
          .plan = plan_clustering,
          .widths = equal_parts,
          .needs = {.weights = true},
          .options = {{.name = "weights",
                       .help = "the matrix whose rows are clustered",
                       .fallback = "up",
                       .choices = {"up", "gate"}},
                      {.name = "metric",
                       .help = "squared distances of the rows' directions less their mean, or cosines of the rows",
                       .fallback = "l2",
                       .choices = {"l2", "cos"}},
                      {.name = "restarts",
                       .help = "first centres that are tried",
                       .fallback = "3",
                       .published = "10",
                       .least = 1,
                       .most = 1000,
                       .is_whole = true}},
          .size_problem = clustering_problem};
}

}  // namespace moe
