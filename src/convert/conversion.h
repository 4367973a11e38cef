#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "convert/channel_alignment.h"
#include "convert/converter.h"
#include "convert/dense_source.h"
#include "convert/planned_attention.h"
#include "convert/planned_layer.h"
#include "model/tensor_id.h"

namespace moe {

/// A layer between planning and writing, and what is kept of it.
struct ConvertedLayer {
  std::optional<PlannedLayer> planned{};        ///< absent: the FFN stays dense
  RouterWeights router{};                       ///< as it will be written; noise begins at 0
  std::optional<PlannedAttention> attention{};  ///< absent: the attention stays dense
  at::Tensor attention_router{};                ///< as it will be written
  nlohmann::json report{};
  /// File with tensors of the layer as its reconstruction left them (convert/reconstruction.h); empty: as planned.
  std::filesystem::path reconstructed{};
  std::optional<ChannelAlignment> alignment{};
};

/// ffn.method; of a conversion of attention alone one that needs nothing and is not asked to plan.
const ConversionMethod& method_of(const ConvertRequest& request);

/// One conversion under way: what planning its layers (convert/layer_planner.h), writing them
/// (convert/conversion_output.h) and describing the whole (convert/converter.cc) share. Every rank has one.
struct Conversion {
  /// `digests` of the models, by path.
  Conversion(const ConvertRequest& request, std::map<std::string, std::string> digests);

  int64_t router_group() const { return method.router_group ? method.router_group(options) : 1; }
  /// That router.init makes.
  int64_t router_rows() const { return spec.ffn().experts() / router_group(); }

  /// How many layers before this one have FFNs, or attention, that become experts: the layer's place in scale.values.
  int64_t ffn_place(int64_t layer) const;
  int64_t attention_place(int64_t layer) const;

  /// Whether a layer from this one on is changed.
  bool is_before_experts(int64_t layer) const;

  /// The tensor of the source that a tensor of the output is, or is cut from. The router, which is new, takes after the
  /// up projection, that of attention after the query's.
  std::string source_of(const TensorId& id) const;
  /// Type of a tensor of the output that is, or is cut from, this one of the source.
  at::ScalarType out_type(const std::string& source_tensor) const;
  at::ScalarType output_type(const TensorId& id) const { return out_type(source_of(id)); }

  /// The layers' experts are no longer neurons of the dense layer: their parts do not sum to it.
  bool changes_neurons() const;

  /// A tensor before or after the layers, in this type: the source's, or what the method makes of all models.
  at::Tensor end(const std::string& name, at::ScalarType type) const;
  /// [V, D] float, where the method makes one; undefined where it is the source's.
  at::Tensor made_embedding() const;
  void release_end(const std::string& name) const;
  void release_ends() const;
  /// Every rank read the layer: none keeps its pages.
  void release_layer(int64_t layer) const;

  const ConvertRequest& request;
  const v1::ConvertSpec& spec;
  const std::map<std::string, std::string> digests;
  ModelConfig config;  ///< of the output: widths and scales are filled in as layers are planned
  const ConversionMethod& method;
  const MethodOptions options;
  const DenseSource source;
  std::deque<DenseSource> others;
  const std::vector<bool> is_mixture;        ///< [layers]: whether the FFN becomes one
  std::map<std::string, PiecedTensor> ends;  ///< that the method makes, by name
  std::vector<ConvertedLayer> layers;        ///< that are planned

 private:
  std::optional<at::ScalarType> dtype_;  ///< absent: that of the source
};

}  // namespace moe
