#include "convert/placed_specs.h"

#include <string>
#include <string_view>
#include <utility>

namespace moe {

PlacedSpecs placed_specs(const ModelConfig& config) {
  constexpr std::string_view kLayers = "model.layers.";
  PlacedSpecs placed;
  placed.layers.resize(config.num_layers);
  bool seen_layers = false;
  for (TensorSpec& spec : logical_tensor_specs(config)) {
    const bool is_layer = spec.name.rfind(kLayers, 0) == 0;
    seen_layers = seen_layers || is_layer;
    std::vector<TensorSpec>& place = is_layer      ? placed.layers.at(std::stoul(spec.name.substr(kLayers.size())))
                                     : seen_layers ? placed.after_layers
                                                   : placed.before_layers;
    place.push_back(std::move(spec));
  }
  return placed;
}

}  // namespace moe
