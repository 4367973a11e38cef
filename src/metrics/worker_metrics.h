#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/step_record.h"
#include "metrics/metrics.h"

/// What a worker rank tells Prometheus about the job it runs. The worker owns one per rank; the job code calls it at
/// unit boundaries. Every series of a job carries its job_id and stage and disappears with end_job(), since one gang
/// serves many jobs; what is reported while no job runs is dropped. Only the leader exposes per-layer, per-expert and
/// whole-gang series: on other ranks those calls do nothing. Names and help texts: common/measures.h,
/// worker_catalogue.h. Safe to call from any thread.
namespace moe {

struct BuildInfo {
  std::string version;
  std::string git_sha;
  std::string torch;
  std::string nccl;  ///< empty: not used
};

/// The collectives and the phases of a checkpoint that are told apart.
inline constexpr const char* kCommOps[] = {"dispatch", "combine", "grad_sync", "param_gather"};
inline constexpr const char* kCheckpointPhases[] = {"snapshot", "write", "commit"};

class WorkerMetrics {
 public:
  /// The page must outlive this. moe_build_info and moe_worker_info appear with build_info() and worker_info().
  WorkerMetrics(MetricsPage& page, bool is_leader);
  WorkerMetrics(const WorkerMetrics&) = delete;
  WorkerMetrics& operator=(const WorkerMetrics&) = delete;
  ~WorkerMetrics();

  void build_info(const BuildInfo& info);
  /// gpu: name of the device, "none" on CPU. The ranks are positions in the mesh of the current job; a later call
  /// replaces it.
  void worker_info(const std::string& gpu, int ep_rank, int dp_rank);

  /// Ends the job before, if it still runs. `kind` ("train", "convert", ...) says what it will count: those series are
  /// there from here on with 0, since Prometheus sees an increase only where it has seen a number before.
  void begin_job(const std::string& job_id, const std::string& stage, const std::string& kind);
  /// Routed experts by layer (0: a dense one) of the model that the job trains, as soon as they are known: their
  /// counters likewise.
  void expect_experts(const std::vector<int64_t>& experts_by_layer);
  void end_job();

  /// Ranks other than the leader may leave everything but `step` out.
  void train_step(const StepRecord& record);
  /// Finished work, absolute: `done` of `total` units. Dropped where the job's kind has no measure of its work.
  void units(int64_t done, int64_t total);
  /// Numbers of the finished job, by the names of common/measures.h ("loss.books").
  void result(const std::map<std::string, double>& values);
  /// phase: one of kCheckpointPhases; bytes 0: not known in this phase. A failed one counts only as a failure.
  void checkpoint(double seconds, const std::string& phase, int64_t bytes, bool ok);
  /// One finished collective of kCommOps.
  void comm(const std::string& op, double seconds, int64_t bytes);
  /// Age of the oldest unfinished collective; 0 if there is none.
  void set_comm_inflight(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
