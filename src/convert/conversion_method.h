#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/model_config.h"

namespace moe {

/// Which neurons of a dense FFN each expert takes: expert e's neurons in the order in which it will hold them.
struct Split {
  std::vector<std::vector<int32_t>> experts;
};

/// What a method may look at to split one layer.
struct SplitRequest {
  int64_t width = 0;  ///< neurons of the dense FFN, a multiple of `experts`
  int64_t experts = 0;
  int64_t layer = 0;
  uint64_t seed = 0;
};

/// A closed-form way to build experts out of a dense FFN. A method that is_partition puts every neuron into exactly one
/// expert (checked by the converter), so that the experts sum to the dense output.
struct ConversionMethod {
  std::string summary;  ///< one line, with its source
  bool is_partition = true;
  std::function<Split(const SplitRequest&)> split;
  /// Why the method cannot split the FFNs of this model, as the end of "method X does not apply: "; empty if it can.
  /// Absent: it splits those of every family.
  std::function<std::string(const ModelConfig&)> refusal{};
};

/// For methods that score neurons by what their gate does.
inline std::string needs_gated_ffn(const ModelConfig& config) {
  return config.is_gated
             ? ""
             : "it needs a gated FFN (down(silu(gate x) * up x)), and that of " + config.model_type + " has no gate";
}

}  // namespace moe
