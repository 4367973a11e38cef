#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "checkpoint/model_writer.h"
#include "comm/communicator.h"
#include "convert/conversion.h"
#include "convert/placed_specs.h"
#include "convert/planned_layer.h"

namespace moe {

/// What a conversion writes, tensor by tensor in the order of the model's specs, aside until it is committed. Every
/// rank has one and calls the same; only rank 0's writes.
class ConversionOutput {
 public:
  /// The conversion outlives this.
  ConversionOutput(const Conversion& conversion, Communicator& world) : conversion_(conversion), world_(world) {}

  /// Once the widths of all layers are known.
  void open();

  /// What stands before and after the layers. Collective.
  void write_before_layers();
  void write_after_layers();
  /// The layer's tensors, as planned.
  void write_layer(int64_t layer);
  /// Ends the weights: the model can be opened where it is, aside.
  void finish_weights();
  /// Adds the neurons and heads of the experts and the report, and takes its place.
  void commit(const nlohmann::json& report);

 private:
  void copy(const std::string& name);
  void write_indices();

  const Conversion& conversion_;
  Communicator& world_;
  PlacedSpecs specs_;
  std::optional<ModelDirectoryWriter> writer_;  ///< of rank 0
};

}  // namespace moe
