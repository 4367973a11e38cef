#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moe {

/// Which neurons of a dense FFN each expert takes: expert e's neurons in the order in which it will hold them.
struct Split {
  std::vector<std::vector<int32_t>> experts;
};

/// What a method may look at to split one layer.
struct SplitRequest {
  int64_t width = 0;      ///< neurons of the dense FFN, a multiple of `experts`
  int64_t experts = 0;
  int64_t layer = 0;
  uint64_t seed = 0;
};

/// A closed-form way to build experts out of a dense FFN. A method that is_partition puts every neuron into exactly one expert
/// (checked by the converter), so that the experts sum to the dense output.
struct ConversionMethod {
  std::string summary;    ///< one line, with its source
  bool is_partition = true;
  std::function<Split(const SplitRequest&)> split;
};

}  // namespace moe
