#include "train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moe {

double learning_rate(const LrSchedule& schedule, int64_t step) {
  if (step < schedule.warmup_steps)
    return schedule.peak * static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  const int64_t span = std::max<int64_t>(1, schedule.steps - schedule.warmup_steps);
  const double progress = std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(span));
  return std::max(schedule.floor * schedule.peak, schedule.peak * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

}  // namespace moe
