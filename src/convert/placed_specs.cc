#include "convert/placed_specs.h"

#include <utility>

namespace moe {
namespace {

bool is_ffn(const TensorId& id) {
  return id.part == TensorPart::kGate || id.part == TensorPart::kUp || id.part == TensorPart::kDown;
}

}  // namespace

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

std::vector<TensorSpec> specs_beside_ffn(const ModelConfig& config, int64_t layer) {
  std::vector<TensorSpec> beside = placed_specs(config).layers.at(layer);
  std::erase_if(beside, [](const TensorSpec& spec) { return is_ffn(spec.id); });
  return beside;
}

}  // namespace moe
