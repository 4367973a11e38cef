#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moe {

struct LossPoint {
  int64_t step = 0;
  /// Nats per token; NaN where only the validation was measured.
  double loss = 0;
  std::optional<double> validation;
};

/// The loss of a training as one <svg>: every step, smoothed once there are 40 of them, and dots for the validation.
/// report.html and the status page draw it alike. `label` is read out by screen readers.
std::string render_loss_curve(const std::string& label, const std::vector<LossPoint>& points);

}  // namespace moe
