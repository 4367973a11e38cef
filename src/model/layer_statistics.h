#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// What layers measured of the tokens of this rank, by name: for each a sum and how many were counted, over all layers
/// and passes that wrote into it, so that the mean over the counts is the same whatever ranks and micro-steps the
/// tokens were spread over. A layer adds the same names in the same order on every rank, also where it has no tokens.
/// One thread.
class LayerStatistics {
 public:
  /// `sum` [] over `count` tokens (or whatever the number is a mean of); no gradient flows through it.
  void add(std::string_view name, const at::Tensor& sum, int64_t count);

  /// [statistics, 2] double: sum and count, in the order of first use, on the device of the sums, which are not read.
  /// To be summed over ranks.
  at::Tensor totals() const;
  /// The mean of each from totals() after that sum, on the host; 0 where nothing was counted.
  std::map<std::string, double> means(const at::Tensor& totals_N2) const;

 private:
  struct Total {
    std::string name;
    at::Tensor sum;  ///< double
    int64_t count = 0;
  };
  std::vector<Total> totals_;
};

}  // namespace moe
