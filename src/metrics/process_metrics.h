#pragma once

#include <prometheus/metric_family.h>

#include <vector>

/// The four process_* families that prometheus-cpp does not bring, read from /proc. Called by MetricsPage; any thread.
namespace moe {

/// Unix time at which this process started. Take it once: it is worked out from two clocks and wobbles in its last
/// digits.
double process_start_time();

/// Numbers of this moment; one that /proc does not show here is left out.
std::vector<prometheus::MetricFamily> process_metrics(double start_time);

}  // namespace moe
