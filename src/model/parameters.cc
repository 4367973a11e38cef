#include "model/parameters.h"

#include "model/model_families.h"

namespace moe {
namespace {

constexpr char kFfnPrefix[] = ".mlp.";

/// Layer of "model.layers.L.mlp.…", or -1 for a tensor outside the FFNs.
int64_t ffn_layer(const std::string& name) {
  constexpr char kLayers[] = "model.layers.";
  if (name.rfind(kLayers, 0) != 0 || name.find(kFfnPrefix) == std::string::npos) return -1;
  return std::stoll(name.substr(sizeof kLayers - 1));
}

void add_ffn(std::vector<TensorSpec>& specs, const std::string& prefix, int64_t width, int64_t hidden) {
  specs.push_back({prefix + "gate_proj.weight", {width, hidden}});
  specs.push_back({prefix + "up_proj.weight", {width, hidden}});
  specs.push_back({prefix + "down_proj.weight", {hidden, width}});
}

void add_moe(std::vector<TensorSpec>& specs, const ModelConfig& config, int64_t layer) {
  const MoeConfig& moe = *config.moe;
  const std::string prefix = "model.layers." + std::to_string(layer) + kFfnPrefix;
  specs.push_back({prefix + "router.weight", {moe.num_experts, config.hidden_size}});
  for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
    add_ffn(specs, prefix + "experts." + std::to_string(expert) + ".", moe.expert_widths[layer], config.hidden_size);
  }
  if (moe.shared_widths[layer] > 0) add_ffn(specs, prefix + "shared_expert.", moe.shared_widths[layer], config.hidden_size);
}

}  // namespace

std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config) {
  const std::vector<TensorSpec> dense = model_families().at(config.model_type).dense_tensors(config);
  if (!config.moe) return dense;
  std::vector<TensorSpec> specs;
  int64_t replaced = -1;
  for (const TensorSpec& spec : dense) {
    const int64_t layer = ffn_layer(spec.name);
    if (layer < 0) {
      specs.push_back(spec);
    } else if (layer != replaced) {
      add_moe(specs, config, layer);
      replaced = layer;
    }
  }
  return specs;
}

std::vector<LogicalView> logical_views(const Parameter& parameter, const at::Tensor& storage) {
  if (!parameter.is_expert) return {{parameter.name, storage}};
  // "….mlp.experts.gate_up_proj" [E, 2I', D] or "….mlp.experts.down_proj" [E, D, I'], I' >= I with zero padding.
  const size_t dot = parameter.name.rfind('.');
  const std::string prefix = parameter.name.substr(0, dot + 1), kind = parameter.name.substr(dot + 1);
  const int64_t width = parameter.expert_width;
  std::vector<LogicalView> views;
  for (int64_t local = 0; local < parameter.experts.count; ++local) {
    const std::string expert = prefix + std::to_string(parameter.experts.first + local) + ".";
    const at::Tensor slice = storage.select(0, local);
    if (kind == "down_proj") {
      views.push_back({expert + "down_proj.weight", slice.slice(1, 0, width)});
    } else {
      const int64_t padded = slice.size(0) / 2;
      views.push_back({expert + "gate_proj.weight", slice.slice(0, 0, width)});
      views.push_back({expert + "up_proj.weight", slice.slice(0, padded, padded + width)});
    }
  }
  return views;
}

}  // namespace moe
