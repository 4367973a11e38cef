#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// Points seen along the two directions in which they vary most.
struct PlaneProjection {
  std::vector<double> x, y;         ///< [points]
  double share_x = 0, share_y = 0;  ///< of the variance that lies along each; 0 where the points are one
};

/// The first two principal components of the points [points][dims], centred, by power iteration; the greatest element
/// of a direction is positive. Sums in one order: the same bits on any machine of the same arithmetic.
PlaneProjection principal_plane(const std::vector<std::vector<float>>& points);

}  // namespace moe
