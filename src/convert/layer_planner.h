#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "convert/attention_planner.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"
#include "convert/layer_fit.h"

namespace moe {

/// Plans the layers of a conversion, in order: what becomes of its attention (convert/attention_planner.h), what the
/// method makes of its FFN, its router and its output scale. Where text runs through, each is calibrated on it at once,
/// so that the next one, be it the layer's FFN, sees this one.
class LayerPlanner {
 public:
  /// `pass`: absent where no text runs through. All outlive the planner.
  LayerPlanner(Conversion& conversion, CalibrationPass* pass, Communicator& world)
      : conversion_(conversion), pass_(pass), world_(world), attention_(conversion, pass, world) {}

  /// Adds to Conversion::layers, and the layer's scales to its config. Collective.
  void plan(int64_t layer);

 private:
  void plan_ffn(int64_t layer, const Layer& dense, ConvertedLayer& converted);
  at::Tensor initial_router(int64_t layer, const Importance* importance);
  double fit(ConvertedLayer& made, int64_t layer, const Layer& dense);
  FitRequest fit_request(int64_t layer, const Layer& dense) const;
  PlannedLayer::Models float_models(int64_t layer, const FeedForwardWeights& ffn) const;

  Conversion& conversion_;
  CalibrationPass* pass_;
  Communicator& world_;
  AttentionPlanner attention_;
};

}  // namespace moe
