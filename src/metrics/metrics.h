#pragma once

#include <memory>
#include <string>

#include "metrics/http_server.h"

namespace prometheus {
class Registry;
}

/// What one process tells Prometheus: the registry that WorkerMetrics or CoordinatorMetrics fills, as the text of
/// /metrics. Every program owns one, first of its metrics objects. text() may be called from any thread while others
/// write.
namespace moe {

class MetricsPage {
 public:
  MetricsPage();
  MetricsPage(const MetricsPage&) = delete;
  MetricsPage& operator=(const MetricsPage&) = delete;
  ~MetricsPage();

  /// Prometheus text format 0.0.4, families and series in order of name and labels, ended by the process's own numbers
  /// (process_cpu_seconds_total, process_open_fds, process_resident_memory_bytes, process_start_time_seconds) of this
  /// moment.
  std::string text() const;

  /// text() with the content type that Prometheus expects: what a handler of /metrics returns.
  HttpResponse response() const;

  prometheus::Registry& registry() { return *registry_; }

 private:
  std::unique_ptr<prometheus::Registry> registry_;
  const double start_time_;  ///< of the process, unix seconds
};

}  // namespace moe
