#include "model/parameters.h"

namespace moe {
namespace {

constexpr char kLayers[] = "model.layers.";
constexpr char kExperts[] = ".mlp.experts.";
constexpr char kBiasSuffix[] = "_bias";

/// Layer of "model.layers.L.…", or -1.
int64_t layer_of(const std::string& name) {
  return name.rfind(kLayers, 0) == 0 ? std::stoll(name.substr(sizeof kLayers - 1)) : -1;
}

/// Allocates parameters in the order of logical tensors; the experts of a layer become a few stacked tensors.
class ParameterBuilder {
 public:
  ParameterBuilder(const ModelConfig& config, at::ScalarType dtype, ExpertRange experts)
      : config_(config), options_(at::TensorOptions(dtype)), experts_(experts) {
    for (const TensorSpec& spec : logical_tensor_specs(config)) add(spec);
  }

  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  void add(const TensorSpec& spec) {
    const int64_t layer = layer_of(spec.name);
    const size_t experts_at = spec.name.find(kExperts);
    if (experts_at == std::string::npos) {
      parameters_.push_back({.name = spec.name,
                             .value = at::empty(spec.shape, options_),
                             .decays = spec.shape.size() > 1,
                             .layer = layer});
      return;
    }
    if (layer == stacked_layer_) return;
    stacked_layer_ = layer;
    const int64_t width = config_.moe->expert_widths[layer], hidden = config_.hidden_size;
    const int64_t rows = config_.is_gated ? 2 * width : width;
    const std::string prefix = spec.name.substr(0, experts_at) + kExperts,
                      in = config_.is_gated ? "gate_up_proj" : "up_proj";
    add_experts(prefix + in, {experts_.count, rows, hidden}, layer, true);
    if (config_.mlp_bias) add_experts(prefix + in + kBiasSuffix, {experts_.count, rows}, layer, false);
    add_experts(prefix + "down_proj", {experts_.count, hidden, width}, layer, true);
  }

  void add_experts(const std::string& name, std::vector<int64_t> shape, int64_t layer, bool decays) {
    parameters_.push_back({.name = name,
                           .value = at::zeros(shape, options_),
                           .is_expert = true,
                           .decays = decays,
                           .layer = layer,
                           .experts = experts_,
                           .expert_width = config_.moe->expert_widths[layer]});
  }

  const ModelConfig& config_;
  at::TensorOptions options_;
  ExpertRange experts_;
  std::vector<Parameter> parameters_;
  int64_t stacked_layer_ = -1;
};

}  // namespace

std::vector<Parameter> allocate_parameters(const ModelConfig& config, at::ScalarType dtype, ExpertRange experts) {
  return ParameterBuilder(config, dtype, experts).take();
}

std::vector<LogicalView> logical_views(const Parameter& parameter, const at::Tensor& storage) {
  if (!parameter.is_expert) return {{parameter.name, storage}};
  // "….mlp.experts.gate_up_proj" [E, 2I', D], "….up_proj" [E, I', D] or "….down_proj" [E, D, I'], I' >= I with zero
  // padding; the biases of the first two without their last dimension.
  const size_t dot = parameter.name.rfind('.');
  const std::string prefix = parameter.name.substr(0, dot + 1);
  std::string part = parameter.name.substr(dot + 1);
  const bool is_bias = part.ends_with(kBiasSuffix);
  if (is_bias) part.resize(part.size() - (sizeof kBiasSuffix - 1));
  const std::string suffix = is_bias ? ".bias" : ".weight";
  const int64_t width = parameter.expert_width;
  std::vector<LogicalView> views;
  for (int64_t local = 0; local < parameter.experts.count; ++local) {
    const std::string expert = prefix + std::to_string(parameter.experts.first + local) + ".";
    const at::Tensor slice = storage.select(0, local);
    if (part != "gate_up_proj") {
      views.push_back({expert + part + suffix, slice.slice(part == "down_proj" ? 1 : 0, 0, width)});
      continue;
    }
    const int64_t padded = slice.size(0) / 2;
    views.push_back({expert + "gate_proj" + suffix, slice.slice(0, 0, width)});
    views.push_back({expert + "up_proj" + suffix, slice.slice(0, padded, padded + width)});
  }
  return views;
}

}  // namespace moe
