#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/feed_forward.h"
#include "model/tensor_piece.h"

/// What a conversion method answers for one layer: which neurons of which dense models its experts are made of. A
/// neuron is a row of gate and up (with their biases) and the column of down that belongs to them, so that a plan
/// cannot take them apart. convert/planned_layer.h makes tensors of it.
namespace moe {

/// Neurons of one dense FFN, one after the other. Runs of an expert stand in a row, but one that `adds` lies upon the
/// run before it, of the same length: the average of two models is {a, in 1/2, down 1/2} and {b, in 1/2, down 1/2,
/// adds}.
struct NeuronRun {
  IndexList neurons;
  double in = 1;      ///< factor of gate and up
  double down = 1;    ///< factor of the down projection
  int64_t model = 0;  ///< 0: the model that is converted; i: ConvertRequest::others[i - 1], the same layer
  bool adds = false;
  /// New values, made from those that were taken (noise, rows drawn anew, a low rank): gate, up [n, D], down [D, n] and
  /// biases, in float. Called whenever a tensor is made of them, several times in all, and must give the same each
  /// time: a function of its argument, seed and layer.
  std::function<FeedForwardWeights(const FeedForwardWeights& taken)> remake{};
};

struct ExpertPlan {
  std::vector<NeuronRun> runs{};

  int64_t width() const;
};

struct LayerWidths {
  std::vector<int64_t> experts{};
  int64_t shared = 0;  ///< 0: no shared part

  bool operator==(const LayerWidths&) const = default;
};

struct LayerPlan {
  std::vector<ExpertPlan> experts{};  ///< routed, as many as the spec asks for; widths may differ
  ExpertPlan shared{};                ///< sees every token at weight 1; without runs: none
  at::Tensor router_ED{};             ///< a router of its own, in float; undefined: the spec's router.init makes it
  at::Tensor router_gate_ED{};        ///< of a product router besides: its rows within silu
  /// Condition number of router_ED, where rows may come out alike: it is reported, and a large one warned of.
  std::optional<double> router_condition{};
  /// Tensors of the layer beside the mixture that are not copied from the model: under their names in it.
  std::vector<PiecedTensor> others{};

  LayerWidths widths() const;
};

/// Experts that take whole neurons of their own layer, and a shared part that does.
LayerPlan plan_of_neurons(std::vector<std::vector<int32_t>> experts, std::vector<int32_t> shared = {});

/// The numbers of an expert's neurons, of one run after the other.
std::vector<int32_t> neurons_in(const ExpertPlan& expert);

/// Whether every expert is a copy of neurons of its own layer, so that their numbers say it all.
bool is_copy_of_neurons(const LayerPlan& plan);

/// What a plan must be like.
struct PlanLimits {
  int64_t layer = 0;
  int64_t experts = 0;
  int64_t neurons = 0;  ///< of a dense FFN
  int64_t hidden_size = 0;
  int64_t models = 1;
  bool has_router = false;
  bool is_partition = false;  ///< every neuron of the layer stands in exactly one expert or the shared part
};
/// Throws Internal with what is wrong: a fault of the method.
void check_plan(const LayerPlan& plan, const PlanLimits& limits);

}  // namespace moe
