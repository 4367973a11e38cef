#include "report/axis_ticks.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "report/text.h"

namespace moe {

double Axis::position(double value) const {
  return is_log ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low)) : (value - low) / (high - low);
}

std::string Axis::label(double tick) const {
  if (is_log || ticks.size() < 2) return short_number(tick);
  if (std::abs(tick) >= 1e4) {
    return std::abs(tick) >= 1e6 ? short_number(tick / 1e6) + "M" : short_number(tick / 1e3) + "k";
  }
  const double step = ticks[1] - ticks[0];
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  return decimals > 6 ? short_number(tick) : fixed(tick, decimals);
}

Axis linear_axis(double least, double greatest, int wanted) {
  MOE_CHECK(std::isfinite(least) && std::isfinite(greatest) && least <= greatest, least, " .. ", greatest);
  if (greatest - least <= 1e-12 * std::max(std::abs(least), std::abs(greatest))) {
    const double half = least == 0 ? 1 : std::abs(least) * 0.1;
    least -= half;
    greatest += half;
  }
  const double rough = (greatest - least) / std::max(1, wanted);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= rough * 0.999) step = factor * power;
  }
  Axis axis;
  const double first = std::floor(least / step + 1e-9), last = std::ceil(greatest / step - 1e-9);
  axis.low = first * step;
  axis.high = last * step;
  for (double i = first; i <= last; ++i) axis.ticks.push_back(i * step);
  return axis;
}

Axis log_axis(double least, double greatest) {
  MOE_CHECK(least > 0 && std::isfinite(greatest) && least <= greatest, least, " .. ", greatest);
  Axis axis;
  axis.is_log = true;
  axis.low = least / 1.05;
  axis.high = greatest * 1.05;
  const bool is_narrow = axis.high / axis.low < 20;
  for (double power = std::pow(10, std::floor(std::log10(axis.low))); power <= axis.high; power *= 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (!is_narrow && factor > 1 && axis.high / axis.low > 1000) continue;
      const double tick = factor * power;
      if (tick >= axis.low && tick <= axis.high) axis.ticks.push_back(tick);
    }
  }
  if (axis.ticks.empty()) axis.ticks = {least, greatest};
  return axis;
}

}  // namespace moe
