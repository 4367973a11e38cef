#pragma once

#include "coordinator/coordinator.h"
#include "metrics/coordinator_metrics.h"
#include "metrics/http_server.h"
#include "metrics/metrics.h"
#include "report/status_page.h"

namespace moe {

/// Adds the coordinator's pages: the status page at /, /metrics, Prometheus service discovery at /sd/workers.
/// Everything handed over must outlive the server.
void add_pages(HttpServer& server, Coordinator& coordinator, MetricsPage& page, CoordinatorMetrics& metrics,
               const std::filesystem::path& store_file);

/// What Coordinator::work() found, as metrics show it: gates only of pipelines that have not ended.
CoordinatorSnapshot snapshot_of(const Coordinator::View& view, double now);

/// What Coordinator::view() found, as the status page draws it.
StatusPage status_page_of(Coordinator::View view, const std::string& version, const std::string& now);

/// The Prometheus HTTP service discovery document: one target per rank of every gang that is not lost.
std::string discovery_document(const std::vector<v1::Gang>& gangs);

}  // namespace moe
