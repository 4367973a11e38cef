#pragma once

#include "metrics/series.h"

/// Every series the coordinator exposes, besides process_*: the one place that names them, with their labels in
/// brackets.
namespace moe {

struct CoordinatorCatalogue : Catalogue {
  using Catalogue::Catalogue;

  // Replaced as a whole by each snapshot.
  GaugeFamily job_info{*this, "moe_job_info", "1; what the job is (job_id, name, kind, queue, user, pipeline_id)."};
  GaugeFamily job_state{*this, "moe_job_state", "Number of the job's state in the API's enum (job_id)."};
  GaugeFamily job_checkpoint_timestamp{
      *this, "moe_job_last_checkpoint_timestamp_seconds",
      "Unix time of the last committed checkpoint; before the first, of the run's start (job_id)."};
  GaugeFamily job_checkpoint_step{*this, "moe_job_last_checkpoint_step",
                                  "Step of the last committed checkpoint (job_id)."};
  GaugeFamily gang_heartbeat{*this, "moe_gang_last_heartbeat_timestamp_seconds",
                             "Unix time of the gang's last heartbeat (job_id, gang_id)."};
  GaugeFamily gangs{*this, "moe_gangs",
                    "Gangs by what the coordinator thinks of them (state: idle, busy, unheard, lost, quarantined)."};
  GaugeFamily queue_jobs{*this, "moe_queue_jobs", "Jobs in the queue (queue, state)."};
  GaugeFamily queue_oldest_wait{*this, "moe_queue_oldest_wait_seconds",
                                "How long the oldest pending job has waited (queue)."};
  GaugeFamily gate_passed{*this, "moe_gate_passed",
                          "0 while the gate holds its pipeline, 1 once it lets it pass; gone when the pipeline ends "
                          "(pipeline_id, stage, gate)."};
  GaugeFamily store_bytes{*this, "moe_store_bytes", "Size of the store's file (file: db, wal)."};

  // Counted as it happens.
  CounterFamily job_restarts{*this, "moe_job_restarts_total", "Times the job was started again (job_id, reason)."};
  CounterFamily jobs_finished{*this, "moe_jobs_finished_total", "Jobs that ended (kind, outcome)."};
  CounterFamily lease_expirations{*this, "moe_lease_expirations_total",
                                  "Leases taken back from a silent gang (reason)."};
  CounterFamily fencing_rejections{*this, "moe_lease_fencing_rejections_total",
                                   "Writes refused because the gang no longer held the lease."};
  CounterFamily rpc_requests{*this, "moe_rpc_requests_total", "Answered calls (method, code)."};
  HistogramFamily rpc_duration{*this,
                               "moe_rpc_duration_seconds",
                               "Time to answer a call (method).",
                               {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}};
  HistogramFamily store_commit{*this,
                               "moe_store_commit_duration_seconds",
                               "Time of a durable commit to the store.",
                               {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}};
};

}  // namespace moe
