#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"
#include "convert/layer_fit.h"
#include "convert/router_init.h"

namespace moe {

/// Plans the layers of a conversion, in order: what the method makes of each, its router and its output scale. Where
/// text runs through, each is calibrated on it at once, so that the next layer sees this one.
class LayerPlanner {
 public:
  /// `pass`: absent where no text runs through. All outlive the planner.
  LayerPlanner(Conversion& conversion, CalibrationPass* pass, Communicator& world);

  /// Adds to Conversion::layers, and the layer's scale to its config. Collective.
  void plan(int64_t layer);

 private:
  /// A layer that stays dense: the text goes through it as it is, to the mixtures behind it.
  void pass_by(int64_t layer);
  at::Tensor initial_router(int64_t layer, const Importance* importance);
  double fit(const PlannedLayer& planned, const at::Tensor& router, int64_t layer, const Layer& dense,
             nlohmann::json& report);
  FitRequest fit_request(int64_t layer, const Layer& dense) const;
  PlannedLayer::Models float_models(int64_t layer, const FeedForwardWeights& ffn) const;

  Conversion& conversion_;
  CalibrationPass* pass_;
  Communicator& world_;
  const RouterInit& router_init_;
};

}  // namespace moe
