#pragma once

#include <map>
#include <memory>
#include <string>

#include "metrics/series.h"

/// Every series a worker rank exposes, besides process_*: what common/measures.h says of the numbers of steps, results
/// and work, and what stands here. All but the two info series carry job_id and stage in front of the labels given
/// here; rank, node and gang_id come from service discovery.
namespace moe {

struct WorkerCatalogue : Catalogue {
  explicit WorkerCatalogue(prometheus::Registry& registry);

  /// Gauges of the measures of steps and results that have a series, by its name.
  std::map<std::string, std::unique_ptr<GaugeFamily>> measured;
  /// How much work of a kind is done, and how much there is, by the series of its measure.
  struct Work {
    Work(Catalogue& catalogue, const std::string& series, const std::string& help)
        : done(catalogue, series + "_total", help),
          target(catalogue, series + "_target", "How many there are to do. " + help) {}

    CounterFamily done;
    GaugeFamily target;
  };
  std::map<std::string, std::unique_ptr<Work>> work;

  // Every rank.
  GaugeFamily build_info{*this, "moe_build_info", "1; what was built (version, git_sha, torch, nccl)."};
  GaugeFamily worker_info{*this, "moe_worker_info",
                          "1; the device and the position in the mesh (gpu, ep_rank, dp_rank)."};
  GaugeFamily step{*this, "moe_worker_step", "Last finished optimizer step."};
  GaugeFamily last_step_timestamp{*this, "moe_worker_last_step_timestamp_seconds",
                                  "Unix time at which the last optimizer step finished."};
  // op: dispatch, combine, grad_sync, param_gather
  CounterFamily comm_seconds{*this, "moe_comm_seconds_total", "Time in collectives of this kind (op)."};
  CounterFamily comm_bytes{*this, "moe_comm_bytes_total",
                           "Bytes that this rank sent in collectives of this kind (op)."};
  CounterFamily comm_ops{*this, "moe_comm_ops_total", "Finished collectives of this kind (op)."};
  GaugeFamily comm_inflight{*this, "moe_comm_inflight_seconds",
                            "Age of the oldest unfinished collective; 0 without one. Grows during a hang."};

  // The leader, for the whole gang. Per layer:
  CounterFamily routed_tokens{*this, "moe_expert_routed_tokens_total", "Tokens routed to the expert (layer, expert)."};
  GaugeFamily load_max_ratio{*this, "moe_router_load_max_ratio",
                             "Busiest expert's tokens over the mean, last step (layer)."};
  GaugeFamily load_min_ratio{*this, "moe_router_load_min_ratio",
                             "Idlest expert's tokens over the mean, last step (layer)."};
  GaugeFamily load_cv{*this, "moe_router_load_cv",
                      "Standard deviation of tokens per expert over their mean, last step (layer)."};
  GaugeFamily entropy_ratio{*this, "moe_router_entropy_ratio",
                            "Entropy of the experts' token shares over its maximum ln E, last step (layer)."};
  GaugeFamily dead_experts{*this, "moe_router_dead_experts", "Experts without a token in the last step (layer)."};

  GaugeFamily attention_load_max_ratio{*this, "moe_attention_router_load_max_ratio",
                                       "Busiest attention expert's tokens over the mean, last step (layer)."};
  GaugeFamily attention_load_min_ratio{*this, "moe_attention_router_load_min_ratio",
                                       "Idlest attention expert's tokens over the mean, last step (layer)."};

  // Training.
  GaugeFamily train_step{*this, "moe_train_step", "Last finished optimizer step of the job."};
  GaugeFamily target_steps{*this, "moe_train_target_steps", "Steps that the job asks for."};
  CounterFamily steps{*this, "moe_train_steps_total", "Optimizer steps run by this process."};
  CounterFamily tokens{*this, "moe_train_tokens_total", "Tokens trained on by this gang in this process's life."};
  CounterFamily nonfinite_steps{*this, "moe_train_nonfinite_steps_total",
                                "Steps whose loss or gradient norm was not finite."};
  CounterFamily skipped_steps{*this, "moe_train_skipped_steps_total", "Steps that made no update."};
  HistogramFamily step_duration{*this,
                                "moe_step_duration_seconds",
                                "Wall time of an optimizer step.",
                                {.1, .25, .5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 40, 80}};

  // Checkpoints.
  HistogramFamily checkpoint_duration{*this,
                                      "moe_checkpoint_duration_seconds",
                                      "Wall time of a phase of a checkpoint (phase: snapshot, write, commit).",
                                      {.1, .5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640}};
  GaugeFamily checkpoint_bytes{*this, "moe_checkpoint_bytes", "Size of the last checkpoint."};
  CounterFamily checkpoint_failures{*this, "moe_checkpoint_failures_total", "Checkpoints that were not written."};
};

}  // namespace moe
