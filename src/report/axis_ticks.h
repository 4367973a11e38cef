#pragma once

#include <string>
#include <vector>

namespace moe {

/// An axis of a chart: round numbers that cover the data, and where a value lies between its ends.
struct Axis {
  double low = 0;
  double high = 1;
  bool is_log = false;
  std::vector<double> ticks;

  /// 0 at `low`, 1 at `high`.
  double position(double value) const;
  /// A tick with just the decimals that its neighbours need.
  std::string label(double tick) const;
};

/// Linear: ends and ticks are multiples of 1, 2 or 5 times a power of ten, about `wanted` of them. An empty range is
/// widened.
Axis linear_axis(double least, double greatest, int wanted);

/// Logarithmic, for positive values: ticks at 1, 2 and 5 times powers of ten; ends at the data's.
Axis log_axis(double least, double greatest);

}  // namespace moe
