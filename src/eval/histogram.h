#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// Counts of values in equal bins of [least, greatest), and of those below and above. Whole numbers, so that sums over
/// ranks are the same in any order.
class Histogram {
 public:
  Histogram(double least, double greatest, int64_t bins);

  /// A value that is no number counts as below.
  void add(double value);
  Histogram& operator+=(const Histogram& other);  ///< of the same bins

  int64_t total() const;
  /// {"least", "greatest", "below", "above", "counts": [bins]}
  nlohmann::json to_json() const;

  /// Those of all ranks, in place. Collective: all ranks give as many, of the same bins.
  static void sum_over_ranks(const std::vector<Histogram*>& histograms, Communicator& world);

 private:
  double least_, greatest_, bins_per_unit_;
  std::vector<int64_t> counts_;  ///< below, the bins, above
};

}  // namespace moe
