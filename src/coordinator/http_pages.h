#pragma once

#include "coordinator/coordinator.h"
#include "metrics/coordinator_metrics.h"
#include "metrics/http_server.h"
#include "metrics/metrics.h"

namespace moe {

/// Adds the coordinator's pages: the status page at /, /metrics, Prometheus service discovery at /sd/workers. Everything handed
/// over must outlive the server.
void add_pages(HttpServer& server, Coordinator& coordinator, MetricsPage& page, CoordinatorMetrics& metrics, const std::filesystem::path& store_file);

/// The jobs, gangs, queue and gates of a view, as metrics show them.
CoordinatorSnapshot snapshot_of(const Coordinator::View& view, double now);

/// The Prometheus HTTP service discovery document: one target per rank of every gang that is not lost.
std::string discovery_document(const std::vector<v1::Gang>& gangs);

}  // namespace moe
