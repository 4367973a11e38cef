#include "model/parameters.h"

#include <optional>

#include "model/kernel_views.h"

namespace moe {
namespace {

/// Allocates parameters in the order of logical tensors; the experts of a layer become a few stacked tensors.
class ParameterBuilder {
 public:
  ParameterBuilder(const ModelConfig& config, const at::TensorOptions& options, const OwnedExperts& experts,
                   std::optional<int64_t> only_layer = std::nullopt)
      : config_(config), options_(options), experts_(experts) {
    for (const TensorSpec& spec : logical_tensor_specs(config)) {
      if (!only_layer || spec.id.layer == *only_layer) add(spec);
    }
  }

  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  void add(const TensorSpec& spec) {
    if (!spec.id.is_routed()) {
      parameters_.push_back({.name = spec.name,
                             .value = at::empty(spec.shape, options_of(spec.id)),
                             .decays = spec.shape.size() > 1,
                             .id = spec.id});
    } else if (spec.id.is_of_attention()) {
      if (is_first_of(spec.id.layer, stacked_attention_)) add_attention_stacks(spec.id.layer);
    } else if (is_first_of(spec.id.layer, stacked_ffn_)) {
      add_ffn_stacks(spec.id.layer);
    }
  }

  at::TensorOptions options_of(const TensorId& id) const {
    if (!is_of_router(id.part) && id.part != TensorPart::kSelectionBias) return options_;
    return options_.dtype(sum_type(c10::typeMetaToScalarType(options_.dtype())));
  }

  static bool is_first_of(int64_t layer, int64_t& stacked_layer) {
    const bool is_first = layer != stacked_layer;
    stacked_layer = layer;
    return is_first;
  }

  void add_attention_stacks(int64_t layer) {
    const AttentionExperts& attention = *config_.moe->attention;
    const int64_t q_rows = attention.query_heads * config_.head_dim, kv_rows = attention.kv_heads * config_.head_dim;
    const int64_t hidden = config_.hidden_size, rows = q_rows + 2 * kv_rows, count = experts_.attention.count;
    const TensorId in{TensorPart::kQueryKeyValue, layer, kStack};
    const std::vector<Part> of_in{{TensorPart::kQuery, 0, 0, q_rows},
                                  {TensorPart::kKey, 0, q_rows, kv_rows},
                                  {TensorPart::kValue, 0, q_rows + kv_rows, kv_rows}};
    add_stack(in, {count, rows, hidden}, experts_.attention, of_in);
    if (config_.qkv_bias) add_stack(in.bias(), {count, rows}, experts_.attention, of_in);
    add_stack({TensorPart::kAttentionOut, layer, kStack}, {count, hidden, q_rows}, experts_.attention,
              {{TensorPart::kAttentionOut, 1, 0, q_rows}});
  }

  void add_ffn_stacks(int64_t layer) {
    const int64_t width = config_.moe->expert_widths[layer], hidden = config_.hidden_size, count = experts_.ffn.count;
    const TensorId in{config_.is_gated ? TensorPart::kGateUp : TensorPart::kUp, layer, kStack};
    const int64_t rows = config_.is_gated ? 2 * width : width;
    std::vector<Part> of_in{{TensorPart::kUp, 0, rows - width}};
    if (config_.is_gated) of_in.insert(of_in.begin(), {TensorPart::kGate, 0, 0});
    add_stack(in, {count, rows, hidden}, experts_.ffn, of_in);
    if (config_.mlp_bias) add_stack(in.bias(), {count, rows}, experts_.ffn, of_in);
    add_stack({TensorPart::kDown, layer, kStack}, {count, hidden, width}, experts_.ffn, {{TensorPart::kDown, 1, 0}});
  }

  /// A matrix of an expert within a stack: `count` entries of dimension `dim` from `first` on, 0: as many as the
  /// expert of an FFN has neurons.
  struct Part {
    TensorPart part;
    int64_t dim, first, count = 0;
  };

  void add_stack(const TensorId& id, std::vector<int64_t> shape, const ExpertRange& experts,
                 const std::vector<Part>& parts) {
    Parameter stack{.name = tensor_name(config_, id),
                    .value = at::zeros(shape, options_),
                    .is_expert = true,
                    .decays = !id.is_bias,
                    .id = id,
                    .experts = experts};
    for (int64_t index = 0; index < experts.count; ++index) {
      for (const Part& part : parts) {
        const TensorId expert{part.part, id.layer, experts.first + index, id.is_bias};
        const int64_t count = part.count > 0 ? part.count : config_.moe->expert_width(id.layer, expert.expert);
        stack.stacked.push_back({tensor_name(config_, expert), index, part.dim, part.first, count});
      }
    }
    parameters_.push_back(std::move(stack));
  }

  const ModelConfig& config_;
  at::TensorOptions options_;
  OwnedExperts experts_;
  std::vector<Parameter> parameters_;
  int64_t stacked_ffn_ = -1, stacked_attention_ = -1;  ///< layers whose experts were last added
};

}  // namespace

std::vector<Parameter> allocate_parameters(const ModelConfig& config, const at::TensorOptions& options,
                                           const OwnedExperts& experts) {
  return ParameterBuilder(config, options, experts).take();
}

std::vector<Parameter> allocate_layer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options,
                                      const OwnedExperts& experts) {
  return ParameterBuilder(config, options, experts, layer).take();
}

std::vector<LogicalView> logical_views(const Parameter& parameter, const at::Tensor& storage) {
  if (!parameter.is_expert) return {{parameter.name, storage}};
  std::vector<LogicalView> views;
  for (const StackedTensor& tensor : parameter.stacked) {
    const at::Tensor expert = storage.select(0, tensor.index);
    views.push_back({tensor.name, expert.slice(tensor.dim, tensor.first, tensor.first + tensor.count)});
  }
  return views;
}

}  // namespace moe
