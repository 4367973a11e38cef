#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/v1/job_service.pb.h"

/// Metrics over steps, by column, for tables and lines. Pure.
namespace moe {

struct Curves {
  std::vector<std::string> names;
  std::vector<int64_t> steps;
  /// By [name][step]; NaN where has_value is false.
  std::vector<std::vector<double>> values;
  std::vector<std::vector<bool>> has_value;
};

/// Columns in the order of `wanted`; if that is empty, every name that occurs, "loss" first.
Curves curves_of(const v1::QueryMetricsResponse& answer, const std::vector<std::string>& wanted);

/// "loss  ▇▅▃▂▁  4.770 -> 1.750, least 1.742, greatest 4.770, steps 1 to 220 (nats per token)".
std::string curve_line(const Curves& curves, size_t name);

}  // namespace moe
