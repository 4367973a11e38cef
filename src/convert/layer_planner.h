#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "convert/attention_planner.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"
#include "convert/layer_fit.h"
#include "convert/prompt_pass.h"
#include "convert/router_init.h"

namespace moe {

/// Plans the layers of a conversion, in order: what becomes of its attention (convert/attention_planner.h), what the
/// method makes of its FFN, its router and its output scale. Where text runs through, each is calibrated on it at once,
/// so that the next one, be it the layer's FFN, sees this one. Prompts that a router is made from go through the dense
/// layers.
class LayerPlanner {
 public:
  /// `pass`: null where no text runs through; `prompts`: where the method looks at none. All outlive the planner.
  LayerPlanner(Conversion& conversion, CalibrationPass* pass, PromptPass* prompts, Communicator& world)
      : conversion_(conversion), pass_(pass), prompts_(prompts), world_(world), attention_(conversion, pass, world) {}

  /// Adds to Conversion::layers, and the layer's scales to its config. Collective.
  void plan(int64_t layer);

 private:
  /// The dense layer in float, where something is to go through it or the method looks at it.
  Layer load(int64_t layer);
  void plan_ffn(int64_t layer, const Layer& dense, ConvertedLayer& converted);
  PlannedLayer planned_layer(int64_t layer, const Layer& dense, const Importance* importance);
  void attend_converted(const PlannedLayer& planned, int64_t layer, const Layer& dense);
  /// Of the gate that the spec names, in float, made by the plan or by router.init; `report` says how well it does.
  RouterWeights first_router(const PlannedLayer& planned, int64_t layer, const Layer& dense,
                             const Importance* importance, nlohmann::json& report);
  InitialRouter initial_router(const PlannedLayer& planned, int64_t layer, const Layer& dense,
                               const Importance* importance);
  double fit(ConvertedLayer& made, int64_t layer, const Layer& dense);
  FitRequest fit_request(int64_t layer, const Layer& dense) const;
  PlannedLayer::Models float_models(int64_t layer, const FeedForwardWeights& ffn) const;

  Conversion& conversion_;
  CalibrationPass* pass_;
  PromptPass* prompts_;
  Communicator& world_;
  AttentionPlanner attention_;
};

}  // namespace moe
