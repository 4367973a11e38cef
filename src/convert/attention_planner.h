#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"
#include "model/layer.h"

namespace moe {

/// Plans the attention of layers that attention experts take the place of, in order: which heads stand together, the
/// router and the output scale. Used by LayerPlanner.
class AttentionPlanner {
 public:
  /// `pass`: absent where no text runs through. All outlive the planner.
  AttentionPlanner(Conversion& conversion, CalibrationPass* pass, Communicator& world)
      : conversion_(conversion), pass_(pass), world_(world) {}

  /// Adds to `converted`, and the layer's scale to the conversion's config. With text, which must have entered the
  /// layer (`dense`, in float), gives what the experts make of the converted stream, [T, D]. Collective.
  at::Tensor plan(int64_t layer, const Layer& dense, ConvertedLayer& converted);

 private:
  HeadGroups group(int64_t layer, const Layer& dense);
  at::Tensor initial_router(int64_t layer);
  at::Tensor fit(int64_t layer, const Layer& dense, const ConvertedLayer& converted, nlohmann::json& report);

  Conversion& conversion_;
  CalibrationPass* pass_;
  Communicator& world_;
};

}  // namespace moe
