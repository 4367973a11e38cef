#include "convert/condition_number.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace moe {

double condition_number(const at::Tensor& rows_ED) {
  constexpr int kSweeps = 60;  // a handful is enough; a bound for what is not finite
  constexpr double kNone = 1e-15;
  at::Tensor rows = rows_ED.to(at::kDouble).clone();
  const int64_t count = rows.size(0), width = rows.size(1);
  double* const values = rows.mutable_data_ptr<double>();
  const auto product = [&](int64_t a, int64_t b) {
    double sum = 0;
    for (int64_t d = 0; d < width; ++d) sum += values[a * width + d] * values[b * width + d];
    return sum;
  };
  // Pairs of rows are turned until all are orthogonal: their lengths are the singular values.
  bool is_done = false;
  for (int sweep = 0; sweep < kSweeps && !is_done; ++sweep) {
    is_done = true;
    for (int64_t a = 0; a + 1 < count; ++a) {
      for (int64_t b = a + 1; b < count; ++b) {
        const double aa = product(a, a), bb = product(b, b), ab = product(a, b);
        if (std::abs(ab) <= kNone * std::sqrt(aa * bb)) continue;
        is_done = false;
        const double zeta = (bb - aa) / (2 * ab),
                     t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta)),
                     c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (int64_t d = 0; d < width; ++d) {
          double &x = values[a * width + d], &y = values[b * width + d];
          const double turned = c * x - s * y;
          y = s * x + c * y;
          x = turned;
        }
      }
    }
  }
  double least = std::numeric_limits<double>::infinity(), largest = 0;
  for (int64_t row = 0; row < count; ++row) {
    const double length = std::sqrt(product(row, row));
    least = std::min(least, length);
    largest = std::max(largest, length);
  }
  return least > 1e-12 * largest ? largest / least : std::numeric_limits<double>::infinity();
}

}  // namespace moe
