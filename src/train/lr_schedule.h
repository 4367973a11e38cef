#pragma once

#include <cstdint>

namespace moe {

struct LrSchedule {
  double peak = 0;
  double floor = 0.1;  ///< share of the peak below which it does not fall
  int64_t warmup_steps = 0;
  int64_t steps = 0;
};

/// Learning rate of a step, counted from 0 to schedule.steps: linear from 0 during warm-up, then half a cosine from the
/// peak towards 0, held at the floor. Source   LLaMA-MoE v1 training script.
double learning_rate(const LrSchedule& schedule, int64_t step);

}  // namespace moe
