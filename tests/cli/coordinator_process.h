#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "moe/v1/worker_service.grpc.pb.h"
#include "testing/background_process.h"
#include "testing/temp_dir.h"

namespace moe::testing {

/// The real moe-coordinator as a process, with a store and a data root of its own; killed with the object.
class CoordinatorProcess {
 public:
  CoordinatorProcess();

  /// kill -9.
  void kill();
  /// On the same port and store; returns when it serves.
  void start();
  std::string address() const;
  std::filesystem::path data_root() const { return folder_ / "data"; }

 private:
  TempDir folder_;
  int port_ = 0;
  int starts_ = 0;
  std::unique_ptr<BackgroundProcess> process_;
};

/// What the leader of a gang does, call by call: takes a job, works, reports, ends it.
class PretendedGang {
 public:
  PretendedGang(const std::string& address, std::filesystem::path data_root);

  /// Knows the method "sequential" and the task "perplexity"; two CPU ranks.
  void join();
  /// Waits up to 20 s for a job.
  v1::Lease lease();
  void heartbeat(const v1::Lease& lease, int64_t step, int64_t target);
  /// Points of steps 1 to `steps` with a falling loss, and the load of two layers.
  void report(const v1::Lease& lease, int64_t steps);
  void append_log(const v1::Lease& lease, const std::string& text);
  void succeed(const v1::Lease& lease);
  void fail(const v1::Lease& lease, const std::string& message);

 private:
  template <typename Method, typename Request, typename Response>
  Response call(Method method, const Request& request, Response response);

  std::unique_ptr<v1::WorkerService::Stub> stub_;
  std::filesystem::path data_root_;
};

}  // namespace moe::testing
