#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/tensor_assembly.h"
#include "convert/layer_plan.h"
#include "model/model_config.h"
#include "model/moe/moe_layer.h"
#include "model/tensor_id.h"

namespace moe {

/// A plan as the tensors that follow from it, each a PiecedTensor: put together by checkpoint/tensor_assembly.h in
/// float for calibration and in the type of the source for writing. Made and used by the converter; holds no tensors of
/// the models.
class PlannedLayer {
 public:
  /// A tensor of the dense layer, contiguous, by its name in the model's directory; `model` as in NeuronRun.
  using Models = std::function<at::Tensor(int64_t model, const std::string& name)>;

  /// `config`: of the dense model.
  PlannedLayer(LayerPlan plan, const ModelConfig& config, int64_t layer);

  const LayerPlan& plan() const { return plan_; }
  const LayerWidths& widths() const { return widths_; }

  /// Whether the plan makes this tensor of the mixture, by its name there; the others are copied.
  bool makes(const std::string& name) const { return tensors_.contains(name); }
  at::Tensor tensor(const std::string& name, at::ScalarType type, const Models& models) const;
  /// The down projections of all experts, in order: made together, since they are columns of one matrix.
  std::vector<at::Tensor> routed_downs(at::ScalarType type, const Models& models) const;

  /// The layer as the model runs it, in float, without a router and an output bias: stacked to the widest expert,
  /// narrower ones filled with zeros.
  MoeWeights mixture(const Models& models) const;

  /// What conversion.safetensors holds of the layer: int32 [experts, widest], -1 after the neurons of a narrower
  /// expert; of the shared part [width]. Undefined where experts are more than copies of neurons.
  at::Tensor expert_neurons() const;
  at::Tensor shared_neurons() const;

 private:
  void add(const ExpertPlan& expert, int64_t number);
  TensorPiece taken_piece(const NeuronRun& run, const TensorId& id) const;
  const PiecedTensor& described(const TensorId& id) const;
  FeedForwardWeights remade(const NeuronRun& run, const Models& models) const;
  TensorAssembly assembly(const Models& models) const;
  FeedForwardWeights shared_weights(const Models& models) const;

  LayerPlan plan_;
  LayerWidths widths_;
  ModelConfig config_;
  int64_t layer_;
  std::map<std::string, PiecedTensor> tensors_;
  std::vector<NeuronRun> remade_;  ///< run i is what pieces of model -1 - i are taken from
};

}  // namespace moe
