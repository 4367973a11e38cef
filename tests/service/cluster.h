#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing/background_process.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

/// A real moe-coordinator, real mpirun gangs and a real moectl, in a folder that goes with the object.
namespace moe::testing {

struct ClusterOptions {
  double lease_seconds = 3;
  double heartbeat_seconds = 0.3;
  double orphan_seconds = 60;
  double hang_seconds = 4;
  double retry_backoff_seconds = 0.2;
  std::string worker = worker_path();                ///< of the gangs
  std::vector<std::string> serve_arguments{};        ///< of theirs, besides those that all have
  std::map<std::string, std::string> environment{};  ///< of theirs
};

class Cluster {
 public:
  explicit Cluster(ClusterOptions options = {});

  /// On the same ports and store as before; returns when it serves.
  void start_coordinator();
  /// kill -9.
  void kill_coordinator();
  BackgroundProcess& coordinator() { return *coordinator_; }

  /// One mpirun, or with `restarting` the loop of deploy/gang.sh. `coordinator`: another address than the coordinator's
  /// own.
  std::unique_ptr<BackgroundProcess> start_gang(int ranks, const std::string& name, bool restarting = false,
                                                const std::string& coordinator = "");
  /// The ranks of a gang in the order of their numbers; empty until all are there.
  static std::vector<pid_t> ranks_of(const BackgroundProcess& gang, int ranks,
                                     const std::string& worker = worker_path());

  ProcessResult moectl(std::vector<std::string> arguments) const;
  /// moectl -o json.
  nlohmann::json moectl_json(std::vector<std::string> arguments) const;
  /// Id of the new pipeline. The file is written into the folder first.
  std::string submit(const std::string& yaml, std::vector<std::string> arguments = {});
  /// Waits for the end; its phase.
  std::string wait_for(const std::string& pipeline, int timeout_seconds);
  nlohmann::json job(const std::string& id) const { return moectl_json({"describe", id}); }

  std::filesystem::path data_root() const { return folder_ / "data"; }
  std::filesystem::path folder() const { return folder_.path(); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::string http() const { return "http://127.0.0.1:" + std::to_string(http_port_); }

 private:
  const ClusterOptions options_;
  TempDir folder_;
  int port_ = 0;
  int http_port_ = 0;
  int starts_ = 0;
  int files_ = 0;
  std::unique_ptr<BackgroundProcess> coordinator_;
};

/// Waits until the job, which runs, has reported this step.
bool reaches_step(const Cluster& cluster, const std::string& job, int64_t step, std::chrono::seconds within);

/// A conversion, a training of `steps` steps with a checkpoint every 5, and (with `evaluates`) an evaluation: seconds
/// on two ranks.
std::string small_pipeline(const std::string& name, int steps, int ranks, int seed = 11, bool evaluates = false);

}  // namespace moe::testing
