#include "coordinator/server_process.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <regex>
#include <stdexcept>

#include "common/error.h"
#include "testing/paths.h"

namespace moe::testing {

std::string coordinator_path() {
  return build_dir() + "/bin/moe-coordinator";
}

ServerProcess::ServerProcess(const std::filesystem::path& folder, const std::string& setup) {
  const std::vector<std::string> arguments{"bash",
                                           "-c",
                                           setup + " exec \"$@\"",
                                           "bash",
                                           coordinator_path(),
                                           "--data-root",
                                           folder / "data",
                                           "--store",
                                           folder / "moe.db",
                                           "--port",
                                           "0",
                                           "--http-port",
                                           "0"};
  int number = 0;
  while (std::filesystem::exists(folder / concat("log-", number))) ++number;
  process_ = std::make_unique<BackgroundProcess>(arguments, folder / concat("log-", number));
  const std::regex serving("event=serving grpc=[^ ]*:([0-9]+) http=http://[^ ]*:([0-9]+)/");
  const bool serves = eventually(std::chrono::seconds(20), [&] {
    std::smatch match;
    const std::string output = process_->output();
    if (!std::regex_search(output, match, serving)) return !process_->is_running();
    port_ = std::stoi(match[1]);
    http_port_ = std::stoi(match[2]);
    return true;
  });
  if (!serves || port_ == 0) throw std::runtime_error("moe-coordinator does not serve: " + process_->output());
}

std::unique_ptr<v1::JobService::Stub> ServerProcess::jobs() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::JobService::NewStub(
      grpc::CreateCustomChannel(concat("127.0.0.1:", port_), grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace moe::testing
