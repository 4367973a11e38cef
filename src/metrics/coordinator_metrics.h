#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metrics/metrics.h"

/// What the coordinator tells Prometheus. State (jobs, gangs, queues, gates, files) is handed over whole when somebody
/// scrapes; events are counted as they happen. Names and help texts: coordinator_catalogue.h. Safe to call from any
/// thread.
namespace moe {

/// The coordinator at one moment. Rows decide which series exist: one that is no longer there takes its series along.
struct CoordinatorSnapshot {
  struct Job {
    std::string job_id;
    std::string name;
    std::string kind;
    std::string queue;
    std::string user;
    std::string pipeline_id;
    int state = 0;                                    ///< number of the proto enum
    std::optional<double> last_checkpoint_timestamp;  ///< unix seconds; start of the run before the first
    std::optional<int64_t> last_checkpoint_step;
    bool has_ended = false;
  };
  struct Gang {
    std::string gang_id;
    std::string job_id;  ///< empty: idle
    double last_heartbeat_timestamp = 0;
    std::string state = "idle";
  };
  struct Gate {
    std::string pipeline_id;
    std::string stage;
    std::string gate;
    bool passed = false;
  };
  struct Queue {
    std::string queue;
    std::map<std::string, int64_t> jobs;  ///< by name of their state
    double oldest_wait_seconds = 0;
  };
  std::vector<Job>
      jobs;  ///< live ones first, then those that ended within the hour; only the first kMaxJobs are exposed
  std::vector<Gang> gangs;
  std::vector<Gate> gates;  ///< that were judged, of pipelines that have not ended
  std::vector<Queue> queues;
  std::map<std::string, int64_t> store_bytes;  ///< by file: "db", "wal"
};

/// Label values that are known before anything happens. Their counters are there from the start on with 0: Prometheus
/// sees an increase only where it has seen a number before.
struct CoordinatorLabels {
  struct Method {
    std::string name;
    std::vector<std::string> codes;  ///< that it may answer
  };
  std::vector<Method> methods;
  std::vector<std::string> kinds;            ///< of jobs
  std::vector<std::string> outcomes;         ///< of jobs
  std::vector<std::string> expiry_reasons;   ///< for which a gang loses a lease
  std::vector<std::string> restart_reasons;  ///< for which a job is started again
};

class CoordinatorMetrics {
 public:
  static constexpr size_t kMaxJobs = 500;  ///< bounds the page, whatever the store holds

  /// The page must outlive this.
  explicit CoordinatorMetrics(MetricsPage& page, CoordinatorLabels labels = {});
  CoordinatorMetrics(const CoordinatorMetrics&) = delete;
  CoordinatorMetrics& operator=(const CoordinatorMetrics&) = delete;
  ~CoordinatorMetrics();

  /// Replaces what the snapshot before said. A handler of /metrics calls this, then MetricsPage::response().
  void set(const CoordinatorSnapshot& snapshot);

  /// One answered call: gRPC method ("AcquireLease") and code ("OK").
  void rpc(const std::string& method, const std::string& code, double seconds);
  void lease_expired(const std::string& reason);
  /// A write of a gang that no longer holds the lease was refused.
  void fenced();
  void restarted(const std::string& job_id, const std::string& reason);
  void finished(const std::string& kind, const std::string& outcome);
  void store_commit(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
