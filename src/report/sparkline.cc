#include "report/sparkline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace moe {

std::string sparkline(const std::vector<double>& values, int width) {
  constexpr std::array<const char*, 8> kBlocks{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const size_t columns = std::min(values.size(), static_cast<size_t>(std::max(0, width)));
  std::vector<double> heights(columns, std::numeric_limits<double>::quiet_NaN());
  for (size_t c = 0; c < columns; ++c) {
    double sum = 0;
    int counted = 0;
    for (size_t i = c * values.size() / columns; i < (c + 1) * values.size() / columns; ++i) {
      if (!std::isfinite(values[i])) continue;
      sum += values[i];
      ++counted;
    }
    if (counted > 0) heights[c] = sum / counted;
  }
  double least = std::numeric_limits<double>::infinity(), greatest = -least;
  for (const double height : heights) {
    if (std::isnan(height)) continue;
    least = std::min(least, height);
    greatest = std::max(greatest, height);
  }
  std::string line;
  for (const double height : heights) {
    if (std::isnan(height)) {
      line += ' ';
      continue;
    }
    // A flat curve runs along the bottom.
    const double share = greatest > least ? (height - least) / (greatest - least) : 0;
    line += kBlocks[std::min<size_t>(7, static_cast<size_t>(share * 8))];
  }
  return line;
}

}  // namespace moe
