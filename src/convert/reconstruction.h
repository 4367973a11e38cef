#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"

namespace moe {

/// Block-wise reconstruction: each planned layer is trained alone to give what its dense layer gives of the same
/// inputs, those of the dense stream, so that no layer waits for another. A rank trains one layer at a time, whole (the
/// text's FFN inputs are gathered on it), without a collective: no bit depends on the number of ranks, if each has as
/// many threads. The scale stays as it was fitted before, since the weights learn with it.
///
/// A trained layer lies in ConvertRequest::kept_layers as layer-<number>.safetensors, float32, with what was measured
/// of it, and appears whole: a conversion that was killed finds it and trains the others. Every rank has one of these
/// and calls the same.
class Reconstruction {
 public:
  /// `progress`: told how many more layers are done; collective, ends the work by throwing. All outlive this.
  Reconstruction(Conversion& conversion, const CalibrationPass& pass, Communicator& world,
                 std::function<void(int64_t layers)> progress);

  /// A layer that was planned, while the pass is at it: taken from what is kept, or trained as soon as there is one for
  /// each rank. Collective.
  void add(int64_t layer);
  /// Trains those that are left. Collective.
  void finish();

 private:
  struct Task {
    int64_t layer;
    at::Tensor inputs_TD;  ///< of all tokens, on the rank that trains it
  };

  std::filesystem::path path_of(int64_t layer) const;
  at::Tensor gather_inputs(int owner) const;
  bool train(const Task& task) const;
  void keep(int64_t layer, const std::vector<Parameter>& parameters, const std::vector<bool>& is_trained,
            const nlohmann::json& measured) const;
  /// What was measured of a layer that is kept; empty if none is, or none that is whole and of this version.
  std::string measured_of(int64_t layer) const;
  void use(int64_t layer, const std::string& measured);

  Conversion& conversion_;
  const CalibrationPass& pass_;
  Communicator& world_;
  const std::function<void(int64_t)> progress_;
  std::vector<Task> tasks_;  ///< one a rank at most
};

}  // namespace moe
