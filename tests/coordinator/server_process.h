#pragma once

#include <memory>
#include <string>

#include "moe/v1/job_service.grpc.pb.h"
#include "testing/background_process.h"

namespace moe::testing {

std::string coordinator_path();

/// A real moe-coordinator on free ports that serves.
class ServerProcess {
 public:
  /// Store and results under `folder`. `setup` is shell that runs before it in its process ("ulimit ..."). Throws if it
  /// does not serve within 20 s.
  explicit ServerProcess(const std::filesystem::path& folder, const std::string& setup = "");

  BackgroundProcess& process() { return *process_; }
  int port() const { return port_; }
  int http_port() const { return http_port_; }
  /// A stub with a channel of its own.
  std::unique_ptr<v1::JobService::Stub> jobs() const;

 private:
  std::unique_ptr<BackgroundProcess> process_;
  int port_ = 0;
  int http_port_ = 0;
};

}  // namespace moe::testing
