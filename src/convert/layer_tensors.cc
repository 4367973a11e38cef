#include "convert/layer_tensors.h"

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "common/error.h"
#include "model/layer_weights.h"

namespace moe {
namespace {

PlannedLayer::Models stored_models(const Conversion& conversion) {
  const auto read = std::make_shared<std::map<std::pair<int64_t, std::string>, at::Tensor>>();
  return [&conversion, read](int64_t model, const std::string& name) {
    const auto [place, is_new] = read->try_emplace({model, name});
    if (is_new) {
      const ModelDirectory& directory =
          model == 0 ? conversion.request.source : conversion.others.at(model - 1).directory();
      place->second = directory.tensor(name).contiguous();
    }
    return place->second;
  };
}

/// Undefined for what no router is made with.
at::Tensor router_tensor(const ConvertedLayer& made, const TensorId& id) {
  switch (id.part) {
    case TensorPart::kRouter: return id.routes_attention ? made.attention_router : made.router.weight_ED;
    case TensorPart::kRouterOut: return made.router.out_weight_EE;
    case TensorPart::kRouterGate: return made.router.gate_weight_ED;
    default: return {};
  }
}

}  // namespace

LayerTensors::LayerTensors(const Conversion& conversion, int64_t layer)
    : conversion_(conversion), made_(conversion.layers.at(layer)), models_(stored_models(conversion)) {
  if (!made_.reconstructed.empty()) reconstructed_.emplace(made_.reconstructed);
}

at::Tensor LayerTensors::tensor(const TensorSpec& spec, at::ScalarType type) {
  if (made_.alignment) {
    const ChannelAlignment& alignment = *made_.alignment;
    if (spec.id.part == TensorPart::kDown) return alignment.scale_rows(unaligned(spec, at::kFloat)).to(type);
    if (spec.id.part == TensorPart::kOutputBias && alignment.output_bias_D.defined())
      return alignment.output_bias_D.to(type);
  }
  return unaligned(spec, type);
}

at::Tensor LayerTensors::unaligned(const TensorSpec& spec, at::ScalarType type) {
  if (reconstructed_ && reconstructed_->find(spec.name) != nullptr) return reconstructed_->tensor(spec.name).to(type);
  if (spec.id.is_routed() && spec.id.part == TensorPart::kDown) {
    if (downs_.empty()) downs_ = made_.planned->routed_downs(type, models_);
    return std::exchange(downs_.at(spec.id.expert), {});
  }
  if (made_.planned && made_.planned->makes(spec.name)) return made_.planned->tensor(spec.name, type, models_);
  if (made_.attention && made_.attention->makes(spec.name)) return made_.attention->tensor(spec.name, type, models_);
  if (const at::Tensor router = router_tensor(made_, spec.id); router.defined()) return router.to(type);
  // Gains and noise of routers and gates of shared experts begin at 0.
  const bool is_new =
      is_of_router(spec.id.part) || (spec.id.part == TensorPart::kOutputBias && !conversion_.source.config().mlp_bias);
  if (is_new) return at::zeros(spec.shape, type);
  return conversion_.request.source.tensor(conversion_.source_of(spec.id)).to(type);
}

std::vector<Parameter> layer_parameters(const Conversion& conversion, int64_t layer, bool mixture_alone) {
  const ModelConfig& config = conversion.config;
  std::vector<Parameter> parameters = allocate_layer(config, layer, at::kFloat, all_experts(config));
  if (mixture_alone) {
    std::set<TensorId> asked;
    moe_feed_forward(config, layer, [&](const TensorId& id) {
      asked.insert(id);
      return at::Tensor();
    });
    std::erase_if(parameters, [&](const Parameter& parameter) { return !asked.contains(parameter.id); });
  }
  std::map<std::string, at::Tensor> places;
  for (const Parameter& parameter : parameters) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) places[logical.name] = logical.view;
  }
  LayerTensors tensors(conversion, layer);
  for (const TensorSpec& spec : logical_tensor_specs(config)) {
    if (const auto place = places.find(spec.name); place != places.end())
      place->second.copy_(tensors.tensor(spec, at::kFloat));
  }
  return parameters;
}

}  // namespace moe
