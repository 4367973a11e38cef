#include "convert/placed_specs.h"

#include <utility>

namespace moe {

PlacedSpecs placed_specs(const ModelConfig& config) {
  PlacedSpecs placed;
  placed.layers.resize(config.num_layers);
  bool seen_layers = false;
  for (TensorSpec& spec : logical_tensor_specs(config)) {
    const bool is_layer = spec.id.layer >= 0;
    seen_layers = seen_layers || is_layer;
    std::vector<TensorSpec>& place = is_layer      ? placed.layers.at(spec.id.layer)
                                     : seen_layers ? placed.after_layers
                                                   : placed.before_layers;
    place.push_back(std::move(spec));
  }
  return placed;
}

}  // namespace moe
